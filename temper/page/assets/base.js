// Elements, numbers in words, and the data. Text from the run only ever becomes text nodes: there is no innerHTML here.

const block = (id) => {
  const element = document.getElementById(id);
  return element ? JSON.parse(element.textContent) : null;
};
const data = block('data');
const recorded = new Map();
const groupsOf = (i) => {
  if (!recorded.has(i)) recorded.set(i, block(`episodes-${i}`) || []);
  return recorded.get(i);
};

// Characters that would not be seen, or would reorder what is, are shown by their names.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
const nameOf = (c) => (c < '\u0100' ? `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}` : `[U+${c.charCodeAt(0).toString(16).toUpperCase()}]`);
const visible = (text) => String(text).replace(UNSEEN, nameOf);

const dress = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    else element.setAttribute(name, value === true ? '' : name === 'title' ? visible(value) : value);
  }
  const shown = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  element.append(...shown.map((child) => (typeof child === 'string' ? visible(child) : child)));
  return element;
};
const h = (tag, attributes, ...children) => dress(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  dress(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
const button = (label, onclick, attributes) => h('button', { type: 'button', onclick, ...attributes }, label);

// ---- numbers

const isNumber = (x) => typeof x === 'number' && Number.isFinite(x);
const minus = (text) => text.replace(/-/g, '−');
const trim = (text) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text);

const num = (x, digits = 3) => {
  if (!isNumber(x)) return '–';
  const size = Math.abs(x);
  if (size === 0) return '0';
  if (size >= 1e15 || size < 1e-4) return minus(x.toExponential(Math.max(0, digits - 1)).replace(/\.?0*e\+?/, 'e'));
  if (size >= 1e4) return short(x);
  if (size >= 100) return minus(trim(x.toFixed(size >= 1000 ? 0 : 1)));
  return minus(trim(x.toPrecision(digits)));
};
const short = (x) => {
  for (const [unit, name] of [[1e12, 'T'], [1e9, 'B'], [1e6, 'M'], [1e3, 'k']]) {
    if (Math.abs(x) >= unit) return minus(`${trim((x / unit).toPrecision(3))} ${name}`);
  }
  return num(x);
};
const percent = (x) => (isNumber(x) ? minus(`${(100 * x).toFixed(1)}%`) : '–');
const signed = (x, text) => (isNumber(x) ? (x > 0 ? '+' : '') + text(x) : '–');
const points = (x) => signed(x, (v) => minus((100 * v).toFixed(1)));
const interval = (pair, text = percent) =>
  Array.isArray(pair) && pair.every(isNumber) ? `${text(pair[0])} to ${text(pair[1])}` : '';
const duration = (seconds) => {
  if (!isNumber(seconds)) return '–';
  if (seconds < 10) return `${num(seconds, 2)} s`;
  const s = Math.round(seconds), m = Math.floor(s / 60), hours = Math.floor(m / 60);
  if (hours) return `${hours} h ${m % 60} min`;
  return m ? `${m} min ${s % 60} s` : `${s} s`;
};
const plural = (n, one, many = `${one}s`) => `${n.toLocaleString('en')} ${n === 1 ? one : many}`;
const words = (key) => String(key).replace(/_/g, ' ');
const asText = (value) => {
  if (value === null || value === undefined) return '–';
  if (Array.isArray(value)) return value.map(asText).join(', ');
  return typeof value === 'object' ? JSON.stringify(value) : typeof value === 'number' ? minus(String(value)) : String(value);
};
const messageText = (prompt) => {
  if (!Array.isArray(prompt)) return prompt === null || prompt === undefined ? '' : asText(prompt);
  if (prompt.length === 1 && prompt[0]?.content !== undefined) return asText(prompt[0].content);
  return prompt.map((m) => (m && typeof m === 'object' ? `${m.role ?? ''}: ${asText(m.content)}` : asText(m))).join('\n');
};

// ---- colour

const HUES = ['blue', 'bronze', 'purple', 'teal', 'crimson', 'olive', 'slate', 'straw'];
const hue = (i) => `var(--${HUES[i % HUES.length]})`;
const taken = new Map();
const sourceHue = (name) => {
  if (!taken.has(name)) taken.set(name, hue(taken.size));
  return taken.get(name);
};

// ---- sections

const section = (id, title, lead, ...children) => {
  const heading = h('h2', { id: `${id}-title` }, title);
  const body = h('section', { id, 'aria-labelledby': heading.id }, heading, lead && h('p', { class: 'lead' }, lead), children);
  document.querySelector('main').append(body);
  document.querySelector('nav').append(h('a', { href: `#${id}` }, title));
  return body;
};
const badge = (text, kind = '') => h('span', { class: `badge ${kind}` }, text);
const choice = (label, options, current, pick) => {
  const group = h('div', { class: 'choice', role: 'group', 'aria-label': label });
  const paint = (value) => [...group.children].forEach((b) => b.setAttribute('aria-pressed', String(b.value === String(value))));
  for (const [value, name] of options) {
    group.append(button(name, () => { paint(value); pick(value); }, { value }));
  }
  paint(current);
  group.show = paint;
  return group;
};
