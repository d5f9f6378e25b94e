// Draws one dashboard with Grafana's own components. `window.asked` says which, and where its data is.
import {
  type DataFrame,
  ThemeContext,
  createTheme,
  dateTime,
  getFieldDisplayValues,
  type FieldDisplay,
} from '@grafana/data';
import {
  BarGauge,
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueTextMode,
  GlobalStyles,
  PanelChrome,
  PanelContextProvider,
  PortalContainer,
  Table,
  TimeSeries,
  VizRepeater,
} from '@grafana/ui';
import { type ReactElement, useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { type Asked, Reader } from './data';

declare global {
  interface Window {
    asked: Asked;
    grafanaBootData: unknown;
  }
}

// Grafana's grid: a row is 30 pixels and the gap between two is 8.
const ROW = 30;
const GAP = 8;
const WIDTH = 1600 - 2 * GAP;
const theme = createTheme({ colors: { mode: 'dark' } });

function place({ x, y, w, h }: { x: number; y: number; w: number; h: number }) {
  const column = (WIDTH + GAP) / 24;
  return { left: x * column, top: y * (ROW + GAP), width: w * column - GAP, height: h * (ROW + GAP) - GAP };
}

function display(panel: any, data: DataFrame[]): FieldDisplay[] {
  return getFieldDisplayValues({
    data,
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: (text: string) => text,
    theme,
    sparkline: panel.options.graphMode === 'area',
    timeZone: 'utc',
  });
}

type Draw = (panel: any, data: DataFrame[], width: number, height: number, reader: Reader) => ReactElement;

const repeated =
  (draw: (panel: any, value: FieldDisplay, width: number, height: number, count: number) => ReactElement): Draw =>
  (panel, data, width, height) => {
    const values = display(panel, data);
    return (
      <VizRepeater
        source={values}
        getValues={() => values}
        getAlignmentFactors={() => null as any}
        width={width}
        height={height}
        autoGrid
        orientation={panel.options.orientation || 'auto'}
        itemSpacing={panel.type === 'bargauge' ? 6 : 3}
        renderCounter={0}
        renderValue={({ value, width, height, count }: any) => draw(panel, value, width, height, count)}
      />
    );
  };

const DRAW: Record<string, Draw> = {
  timeseries: (panel, data, width, height, reader) => (
    <TimeSeries
      frames={data}
      structureRev={1}
      timeRange={range(reader)}
      timeZone="utc"
      width={width}
      height={height}
      legend={panel.options.legend}
      options={panel.options}
    />
  ),
  stat: repeated((panel, value, width, height, count) => (
    <BigValue
      value={value.display}
      width={width}
      height={height}
      count={count}
      colorMode={panel.options.colorMode as BigValueColorMode}
      graphMode={panel.options.graphMode as BigValueGraphMode}
      sparkline={value.sparkline}
      textMode={panel.options.textMode as BigValueTextMode}
      theme={theme}
    />
  )),
  bargauge: repeated((panel, value, width, height) => (
    <BarGauge
      value={value.display}
      field={value.field}
      display={value.view?.getFieldDisplayProcessor(value.colIndex!)}
      width={width}
      height={height}
      orientation={panel.options.orientation}
      displayMode={panel.options.displayMode}
      showUnfilled={panel.options.showUnfilled}
      namePlacement={panel.options.namePlacement}
      theme={theme}
    />
  )),
  table: (panel, data, width, height) =>
    data.length ? (
      <Table data={data[0]} width={width} height={height} cellHeight={panel.options.cellHeight} initialSortBy={panel.options.sortBy} />
    ) : (
      <></>
    ),
};

function range(reader: Reader) {
  const to = dateTime(reader.end * 1000);
  const from = dateTime((reader.end - window.asked.seconds) * 1000);
  return { from, to, raw: { from, to } };
}

function Panel({ panel, reader, drawn }: { panel: any; reader: Reader; drawn: () => void }) {
  const [data, setData] = useState<DataFrame[] | null>(null);
  useEffect(() => {
    reader.frames(panel, theme).then(setData, (error) => console.error(`${panel.title}: ${error}`));
  }, []);
  useEffect(() => {
    if (data) {
      drawn();
    }
  }, [data]);
  const { left, top, width, height } = place(panel.gridPos);
  const empty = data && !data.some((frame) => frame.length);
  return (
    <div style={{ position: 'absolute', left, top, width, height }}>
      <PanelChrome title={panel.title} width={width} height={height} description={panel.description}>
        {(inner, tall) =>
          empty ? <div style={{ padding: 16, opacity: 0.6 }}>{panel.fieldConfig.defaults.noValue ?? 'No data'}</div> : data ? DRAW[panel.type](panel, data, inner, tall, reader) : <></>
        }
      </PanelChrome>
    </div>
  );
}

function Board() {
  const { board, chosen } = window.asked;
  const [reader] = useState(() => new Reader(window.asked));
  const [count, setCount] = useState(0);
  const panels = board.panels.filter((panel: any) => panel.type !== 'row'); // what is in collapsed rows is not shown
  const bottom = Math.max(...board.panels.map((panel: any) => panel.gridPos.y + panel.gridPos.h));
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (count === panels.length) {
      // Graphs draw themselves after they have been laid out.
      setTimeout(() => setDone(true), 1500);
    }
  }, [count]);
  const choices = board.templating.list.filter((variable: any) => variable.type !== 'datasource');
  return (
    <div style={{ padding: GAP, width: 1600, background: theme.colors.background.canvas, color: theme.colors.text.primary }}>
      <div style={{ display: 'flex', gap: 16, alignItems: 'center', height: 44 }}>
        <strong style={{ fontSize: 18, marginRight: 16 }}>{board.title}</strong>
        {choices.map((variable: any) => (
          <span key={variable.name} style={{ fontSize: 13 }}>
            <span style={{ opacity: 0.7 }}>{variable.label}</span>{' '}
            <span style={{ background: theme.colors.background.secondary, padding: '4px 10px', borderRadius: 2 }}>
              {chosen[variable.name] ?? variable.current?.text ?? 'All'}
            </span>
          </span>
        ))}
      </div>
      <div style={{ position: 'relative', width: WIDTH, height: bottom * (ROW + GAP) }}>
        {board.panels.map((panel: any, index: number) =>
          panel.type === 'row' ? (
            <div key={index} style={{ position: 'absolute', ...place(panel.gridPos), lineHeight: `${ROW}px`, fontWeight: 500 }}>
              {panel.collapsed ? '›' : '⌄'} {panel.title}
            </div>
          ) : (
            <Panel key={index} panel={panel} reader={reader} drawn={() => setCount((before) => before + 1)} />
          )
        )}
      </div>
      {done && <div id="done" />}
    </div>
  );
}

createRoot(document.getElementById('root')!).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <PortalContainer />
    <Board />
  </ThemeContext.Provider>
);
