// The last minutes of a phone as a small curve: power where it is known, else temperature.

/** Draw into a canvas of a fixed CSS size; returns which quantity it shows, or "". */
export function drawSpark(canvas, past) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return "";
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  if (!past) return "";
  const what = past.power_watts.some((value) => value !== null) ? "power_watts" : "temperature_celsius";
  const values = past[what];
  const there = values.filter((value) => value !== null);
  if (there.length < 2) return "";
  const begin = past.at[0], span = past.at.at(-1) - begin || 1;
  let low = Math.min(...there), high = Math.max(...there);
  if (what === "power_watts") low = 0;
  if (high - low < 0.5) high = low + 0.5;
  const x = (i) => 1 + ((width - 2) * (past.at[i] - begin)) / span;
  const y = (value) => height - 2 - ((height - 4) * (value - low)) / (high - low);
  const style = getComputedStyle(canvas);
  context.strokeStyle = style.getPropertyValue("--spark");
  context.fillStyle = style.getPropertyValue("--spark-fill");
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  let run = [];
  const finish = () => {
    if (run.length > 1) {
      context.beginPath();
      run.forEach((i, n) => context[n ? "lineTo" : "moveTo"](x(i), y(values[i])));
      context.stroke();
      context.lineTo(x(run.at(-1)), height);
      context.lineTo(x(run[0]), height);
      context.fill();
    }
    run = [];
  };
  values.forEach((value, i) => (value === null ? finish() : run.push(i)));
  finish();
  return what;
}
