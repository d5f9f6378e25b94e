// A spark: the last minutes of utilisation as an area, without axes.
import { LIVE_SECONDS, SPARK } from "./live.js";
import { colour } from "./colours.js";

/** Give a canvas whose `draw` shows a series of live minutes that end at `now`. */
export function spark(canvas) {
  const pen = canvas.getContext("2d");
  let [width, height] = [0, 0];
  let scale = 1;

  function fit() {
    scale = devicePixelRatio;
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }

  new ResizeObserver(() => (width = 0)).observe(canvas);

  return {
    draw(series, now) {
      if (width === 0 || scale !== devicePixelRatio) fit();
      if (width === 0) return; // not shown
      pen.setTransform(scale, 0, 0, scale, 0, 0);
      pen.clearRect(0, 0, width, height);
      const { column, top } =
        SPARK.find((each) => series.columns[each.column].some((value) => value !== null)) ?? SPARK[0];
      const values = series.columns[column];
      const x = (i) => width * (1 - (now - series.times[i]) / LIVE_SECONDS);
      const y = (value) => height - 1 - (value / top) * (height - 3);
      pen.lineWidth = 1.25;
      pen.lineJoin = "round";
      pen.strokeStyle = colour("use");
      pen.fillStyle = colour("use-soft");
      for (let i = 0; i < values.length; i++) {
        if (values[i] === null) continue;
        const begin = i;
        pen.beginPath();
        for (; i < values.length && values[i] !== null; i++) pen.lineTo(x(i), y(values[i]));
        pen.stroke();
        pen.lineTo(x(i - 1), height);
        pen.lineTo(x(begin), height);
        pen.fill();
      }
    },
  };
}
