// Small line charts in SVG: axes with labels, a legend with last values, a line for a target, values under the pointer.

import { h, s } from "./dom.js";
import { number } from "./texts.js";

const HEIGHT = 168;
const MARGIN = { top: 12, right: 14, bottom: 34, left: 44 };

/**
 * A titled chart.
 * @param series [{label, points: [[x, y], …], tone: "a" | "b"}]
 * @param target {value, label} draws a dashed line
 * @param format writes a value; bounds: [low, high] that the axis shows at least
 */
export function lineChart({ title, unit, xLabel, series, target, empty, format = number, bounds }) {
  const present = series.filter(({ points }) => points?.length);
  const last = present.at(-1)?.points.at(-1)?.[1];
  const head = h("div", { class: "chart-head" },
    h("h3", {}, title, unit ? h("small", {}, unit) : null),
    last === undefined ? null : h("strong", {}, format(last)));
  if (!present.length) {
    return h("figure", { class: "chart" }, head, h("div", { class: "chart-empty" }, h("p", {}, empty)));
  }
  const legend = h("ul", { class: "legend" }, present.map(({ label, tone, points }) =>
    h("li", { class: `tone-${tone}` }, h("i"), label, " ", h("b", {}, format(points.at(-1)[1])))));
  const plot = h("div", { class: "plot" });
  const repaint = () => plot.replaceChildren(...paint(plot.clientWidth, { present, target, format, bounds, xLabel, title }));
  new ResizeObserver(repaint).observe(plot);
  return h("figure", { class: "chart" }, head, plot, legend);
}

function paint(width, { present, target, format, bounds, xLabel, title }) {
  if (width < 60) return [];
  const points = present.flatMap((one) => one.points);
  const xs = extent(points.map(([x]) => x));
  const ys = padded([...points.map(([, y]) => y), ...(target ? [target.value] : []), ...(bounds ?? [])], bounds);
  const x = scale(xs, [MARGIN.left, width - MARGIN.right]);
  const y = scale(ys, [HEIGHT - MARGIN.bottom, MARGIN.top]);
  const description = `${title}: ${present.map((one) => `${one.label} ${format(one.points.at(-1)[1])}`).join(", ")}`;
  const image = s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": description },
    axes({ xs, ys, x, y, width, format, xLabel }),
    present.map((one) => curve(one, x, y)),
    target ? targetLine(target, y, width, present.some(({ points }) => points.at(-1)[1] > target.value)) : null);
  const tip = h("div", { class: "tip", hidden: true });
  follow(image, tip, { present, x, y, width, format, xLabel });
  return [image, tip];
}

function axes({ xs, ys, x, y, width, format, xLabel }) {
  const bottom = HEIGHT - MARGIN.bottom;
  return s("g", { class: "axes" },
    ticks(ys, 4).map((value) => [
      s("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
      s("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, format === number ? String(value) : format(value)),
    ]),
    ticks(xs, Math.max(2, Math.floor(width / 60))).filter(Number.isInteger).map((value) =>
      s("text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, String(value))),
    s("text", { x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 3, "text-anchor": "middle", class: "axis-label" }, xLabel));
}

// the label stands at the right end, on the side away from where the curves ended
function targetLine({ value, label }, y, width, passed) {
  return s("g", { class: "target" },
    s("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }),
    s("text", { x: width - MARGIN.right, y: y(value) + (passed ? 13 : -5), "text-anchor": "end" }, label));
}

function curve({ points, tone }, x, y) {
  const path = points.map(([px, py], i) => `${i ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
  const [lastX, lastY] = points.at(-1);
  return s("g", { class: `curve tone-${tone}` },
    s("path", { d: path }),
    s("circle", { cx: x(lastX), cy: y(lastY), r: 3.5 }));
}

/** Show the values at the step nearest to the pointer. */
function follow(image, tip, { present, x, y, width, format, xLabel }) {
  const steps = [...new Set(present.flatMap(({ points }) => points.map(([step]) => step)))].sort((a, b) => a - b);
  const rule = s("line", { class: "rule", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" });
  image.append(rule);
  image.addEventListener("pointermove", (event) => {
    const at = event.clientX - image.getBoundingClientRect().left;
    const step = steps.reduce((best, one) => (Math.abs(x(one) - at) < Math.abs(x(best) - at) ? one : best));
    rule.setAttribute("x1", x(step));
    rule.setAttribute("x2", x(step));
    rule.setAttribute("visibility", "visible");
    tip.hidden = false;
    tip.replaceChildren(h("b", {}, `${xLabel} ${step}`), ...present.flatMap(({ label, tone, points }) => {
      const found = points.findLast(([one]) => one <= step);
      return found ? [h("span", { class: `tone-${tone}` }, h("i"), `${label} ${format(found[1])}`)] : [];
    }));
    tip.style.left = `${Math.min(Math.max(x(step), 60), width - 60)}px`;
  });
  image.addEventListener("pointerleave", () => {
    tip.hidden = true;
    rule.setAttribute("visibility", "hidden");
  });
}

/** A bar from 50 to 100 %: the interval, the value, the gate and the ceiling. */
export function gateGauge({ value, interval, gate, ceiling, labels }) {
  const place = (share) => `${Math.min(Math.max((share - 0.5) / 0.5, 0), 1) * 100}%`;
  const mark = (share, name, label) => {
    const element = h("i", { class: name, title: label });
    element.style.left = place(share);
    return element;
  };
  const band = h("i", { class: "band" });
  const [low, high] = interval ?? [value, value];
  band.style.left = place(low);
  band.style.width = `calc(${place(high)} - ${place(low)})`;
  return h("div", { class: "gauge" },
    h("div", { class: "track" }, band,
      ceiling ? mark(ceiling, "ceiling", labels.ceiling) : null,
      mark(gate, "gate", labels.gate),
      mark(value, `dot${value >= gate ? " good" : ""}`, labels.value)),
    h("div", { class: "scale" }, h("span", {}, "50 %"), h("span", {}, "75 %"), h("span", {}, "100 %")));
}

function extent(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return low === high ? [low, low + 1] : [low, high];
}

function padded(values, bounds) {
  const [low, high] = extent(values);
  const room = (high - low) * 0.08;
  const inside = (value, limit) => bounds !== undefined && value === limit;
  return [inside(low, bounds?.[0]) ? low : low - room, inside(high, bounds?.[1]) ? high : high + room];
}

function scale([low, high], [from, to]) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

/** About `wanted` round values within the range. */
function ticks([low, high], wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}
