// How a column of the tokens becomes colour.

const look = { column: null };
const valueAt = (turn, column, i) => {
  const values = turn.columns?.[column];
  return values === undefined ? null : Array.isArray(values) ? values[i] : values;
};
const valuesOf = (turns, column) => turns.flatMap((turn) => {
  const values = turn.columns?.[column];
  return values === undefined ? [] : Array.isArray(values) ? values.filter(isNumber) : [values];
});
const KNOWN = ['advantage', 'ratio', 'entropy', 'logp', 'gate'];
const columnsOf = (turns) => {
  const found = [...new Set(turns.flatMap((turn) => Object.keys(turn.columns || {})))];
  return [...KNOWN.filter((c) => found.includes(c)), ...found.filter((c) => !KNOWN.includes(c)).sort()];
};
const COLUMN_NAMES = { logp: 'log-prob' };
const columnName = (column) => COLUMN_NAMES[column] || words(column);

// How a column becomes colour: `shade` gives [colour, strength 0–1]; `ends` label the legend. The strongest two per cent share full strength.
const tint = (column, turns) => {
  const values = valuesOf(turns, column);
  const cap = (list) => { const s = list.map(Math.abs).sort((a, b) => a - b); return s[Math.floor(0.98 * (s.length - 1))] || s.at(-1) || 1; };
  if (column === 'gate' || (values.length && /gate|mask/.test(column) && values.every((v) => v === 0 || v === 1))) {
    return { shade: (v) => (v ? ['var(--positive)', 0.45] : ['var(--negative)', 0.7]), ends: ['0: left out', '1: trained on'], kind: 'gate' };
  }
  if (/ratio/.test(column)) {
    const top = Math.max(cap(values.filter((v) => v > 0).map(Math.log)), 0.01);
    return { shade: (v) => [v >= 1 ? 'var(--positive)' : 'var(--negative)', v > 0 ? Math.abs(Math.log(v)) / top : 1], sign: (v) => (v > 0 ? Math.log(v) / top : -1),
      ends: [`≤ ${num(Math.exp(-top))}`, '1', `≥ ${num(Math.exp(top))}`], kind: 'diverging' };
  }
  const top = cap(values);
  if (/logp/.test(column) && values.every((v) => v <= 0)) {
    return { shade: (v) => ['var(--amount)', -v / top], sign: (v) => -v / top, ends: ['0: certain', `≤ ${num(-top)}: surprising`], kind: 'amount' };
  }
  if (values.some((v) => v < 0) || column === 'advantage') {
    return { shade: (v) => [v >= 0 ? 'var(--positive)' : 'var(--negative)', Math.abs(v) / top], sign: (v) => v / top,
      ends: [`≤ ${num(-top)}`, '0', `≥ +${num(top)}`], kind: 'diverging' };
  }
  return { shade: (v) => ['var(--amount)', v / top], sign: (v) => v / top, ends: ['0', `≥ ${num(top)}`], kind: 'amount' };
};
const colourToken = (element, tinted, value) => {
  element.classList.toggle('off', tinted?.kind === 'gate' && value === 0);
  if (!tinted || !isNumber(value)) { element.style.removeProperty('--a'); return; }
  const [colour, strength] = tinted.shade(value);
  element.style.setProperty('--c', colour);
  element.style.setProperty('--a', `${Math.round(62 * Math.max(0, Math.min(1, strength)))}%`);
};
const legendOf = (tinted) => h('div', { class: 'ramp' },
  h('i', { class: tinted.kind, 'aria-hidden': 'true' }), h('span', {}, tinted.ends.map((end) => h('span', {}, end))));

