// Elements from data. Text only ever becomes a text node, so nothing a model wrote can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element; `on…` properties are listeners, `class`, `data-…` and the rest attributes. */
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** An SVG element. */
export function s(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what is in the element, but only if the data differ from the last time: focus and hover stay. */
export function draw(id, data, build) {
  const element = document.getElementById(id);
  const key = JSON.stringify(data);
  if (element.drawn === key) return;
  element.drawn = key;
  const content = build();
  element.hidden = content === null;
  element.replaceChildren(...[content].flat(Infinity).filter(Boolean));
}
