// From a dashboard's JSON and what Prometheus answers to data frames, as Grafana's data source and panels make them.
import {
  type DataFrame,
  type DataTransformerConfig,
  FieldConfigOptionsRegistry,
  FieldType,
  type GrafanaTheme2,
  applyFieldOverrides,
  standardTransformers,
  standardTransformersRegistry,
  toDataFrame,
  transformDataFrame,
} from '@grafana/data';
import { lastValueFrom } from 'rxjs';

export interface Asked {
  board: any;
  prometheus: string;
  seconds: number;
  scrape: number;
  chosen: Record<string, string>;
}

interface Series {
  metric: Record<string, string>;
  value?: [number, string];
  values?: Array<[number, string]>;
}

const transformations = new Map(Object.values(standardTransformers).map((one) => [one.id, one]));
standardTransformersRegistry.setInit(() =>
  [...transformations.values()].map((transformation) => ({
    id: transformation.id,
    transformation,
    name: transformation.name,
    editor: () => null,
  }))
);

// Properties that overrides may set; Grafana's panels register theirs with editors, which nobody needs here.
const item = (id: string, path: string, isCustom: boolean): any => ({
  id,
  path,
  isCustom,
  name: id,
  editor: () => null,
  override: () => null,
  process: (value: unknown) => value,
  shouldApply: () => true,
  settings: {},
});
const STANDARD = ['unit', 'decimals', 'min', 'max', 'color', 'thresholds', 'mappings', 'links', 'displayName', 'noValue'];
const CUSTOM = [
  ...['axisSoftMax', 'cellOptions', 'drawStyle', 'fillOpacity', 'hideFrom', 'lineStyle', 'lineWidth', 'minWidth'],
  ...['showPoints', 'stacking', 'thresholdsStyle', 'width'],
];
const registry = new FieldConfigOptionsRegistry(() => [
  ...STANDARD.map((name) => item(name, name, false)),
  ...CUSTOM.map((name) => item(`custom.${name}`, name, true)),
]);

export class Reader {
  readonly step: number;
  readonly end = Date.now() / 1000;

  constructor(private readonly asked: Asked) {
    // About as many points as a panel of a third of the width has in Grafana.
    this.step = Math.max(asked.scrape, Math.ceil(asked.seconds / 500));
  }

  interpolate(text: string): string {
    const { asked } = this;
    const values: Record<string, string> = {
      __rate_interval: `${Math.max(this.step + asked.scrape, 4 * asked.scrape)}s`,
      __range: `${Math.round(asked.seconds)}s`,
      price: '0.25',
      ...asked.chosen,
    };
    return text.replace(/\$(?:\{(\w+)[^}]*\}|(\w+))/g, (_, long, short) => values[long ?? short] ?? '.*');
  }

  async frames(panel: any, theme: GrafanaTheme2): Promise<DataFrame[]> {
    const answers = await Promise.all(panel.targets.map((target: any) => this.query(target)));
    const several = panel.targets.length > 1;
    let frames: DataFrame[] = answers.flatMap((series: Series[], index) =>
      panel.type === 'table'
        ? [table(series, panel.targets[index], several)]
        : series.map((one) => graph(one, panel.targets[index]))
    );
    const transformations: DataTransformerConfig[] = panel.transformations ?? [];
    if (transformations.length) {
      frames = await lastValueFrom(transformDataFrame(transformations, frames, { interpolate: (text: string) => text } as any));
    }
    return applyFieldOverrides({
      data: frames,
      fieldConfig: panel.fieldConfig,
      fieldConfigRegistry: registry,
      replaceVariables: (text: string) => text,
      theme,
      timeZone: 'utc',
    });
  }

  private async query(target: any): Promise<Series[]> {
    const parameters = new URLSearchParams({ query: this.interpolate(target.expr) });
    if (target.instant) {
      parameters.set('time', `${this.end}`);
    } else {
      parameters.set('start', `${Math.floor((this.end - this.asked.seconds) / this.step) * this.step}`);
      parameters.set('end', `${this.end}`);
      parameters.set('step', `${this.step}`);
    }
    const answer = await fetch(`${this.asked.prometheus}/api/v1/query${target.instant ? '' : '_range'}?${parameters}`);
    const body = await answer.json();
    if (body.status !== 'success') {
      throw new Error(`${body.error}: ${target.expr}`);
    }
    return body.data.result;
  }
}

function legend(series: Series, format: string): string {
  if (format !== '__auto') {
    return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => series.metric[label] ?? '').trim();
  }
  return '';
}

function graph(series: Series, target: any): DataFrame {
  const points = series.values ?? [series.value!];
  const name = legend(series, target.legendFormat);
  return toDataFrame({
    refId: target.refId,
    name,
    fields: [
      { name: 'Time', type: FieldType.time, values: points.map(([time]) => time * 1000) },
      {
        name: 'Value',
        type: FieldType.number,
        labels: series.metric,
        config: name ? { displayNameFromDS: name } : {},
        values: points.map(([, value]) => number(value)),
      },
    ],
  });
}

function table(series: Series[], target: any, several: boolean): DataFrame {
  const labels = [...new Set(series.flatMap((one) => Object.keys(one.metric)))].sort();
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: series.map((one) => one.value![0] * 1000) },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        config: { filterable: true },
        values: series.map((one) => one.metric[label] ?? ''),
      })),
      {
        name: several ? `Value #${target.refId}` : 'Value',
        type: FieldType.number,
        values: series.map((one) => number(one.value![1])),
      },
    ],
  });
}

const number = (text: string): number | null => (text === 'NaN' ? null : Number(text));
