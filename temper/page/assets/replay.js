// What other methods would have done with one recorded step: a table, the tokens that changed most, and the texts.

const methods = data.methods, own = methods[0].method, worked = methods.filter((m) => !m.error);
const colours = new Map(worked.map((m, i) => [m.method, hue(i)]));
const times = (x) => `${x.toFixed(x < 0.1 ? 3 : 2)} times the length`;
const shareText = (x) => (isNumber(x) ? percent(x) : '–');
const COLUMNS = [
  ['method', 'method', (m) => m.method, (m) => m.method],
  ['cosine', 'cosine', (m) => m.cosine, (m) => (isNumber(m.cosine) ? minus(m.cosine.toFixed(4)) : '–'), 'angle to the gradient that the run had: 1 is the same direction'],
  ['ratio', 'norm / own', (m) => m.ratio, (m) => num(m.ratio), 'length of the gradient over that of the run'],
  ['norm', 'norm', (m) => m.norm, (m) => num(m.norm), 'length of the gradient, before clipping'],
  ['ess', 'effective attempts', (m) => m.effective_trajectories / (m.trajectories || 1), (m) => `${num(m.effective_trajectories)} of ${m.trajectories}`, 'how many attempts of equal weight would carry as much'],
  ['used', 'tokens used', (m) => m.used, (m) => shareText(m.used), 'tokens with a gradient'],
  ['clipped', 'clipped', (m) => m.clipped, (m) => shareText(m.clipped), 'share that the method clips, over its own optimiser steps'],
  ['moved', 'credit moved', (m) => m.moved, (m) => (m.method === own ? '–' : shareText(m.moved)), 'share of the credit that lies on other tokens than in the run, or has the other sign'],
];

const methodTable = () => {
  let by = null, down = true;
  const body = h('tbody');
  const draw = () => {
    const column = COLUMNS.find(([key]) => key === by);
    const value = (m) => (column ? column[2](m) : 0) ?? -Infinity;
    const rows = column ? [...worked].sort((a, b) => (value(a) < value(b) ? 1 : value(a) > value(b) ? -1 : 0) * (down ? 1 : -1)) : worked;
    body.replaceChildren(...rows.map((m) => h('tr', { class: m.method === own ? 'own' : '', 'data-method': m.method },
      COLUMNS.map(([key, label, , text]) => (key === 'method'
        ? h('th', { scope: 'row' }, h('i', { class: 'swatch', style: { '--c': colours.get(m.method) } }), m.method, m.method === own && badge('the run'))
        : h('td', { 'data-label': label }, text(m), key === 'cosine' && isNumber(m.cosine) && h('i', { class: `meter ${m.cosine < 0 ? 'minus' : ''}`, style: { '--w': `${Math.abs(m.cosine) * 100}%` } })))))));
  };
  const sortBy = (key, cell) => {
    down = by === key ? !down : key !== 'method';
    by = key;
    cell.parentElement.querySelectorAll('th').forEach((th) => th.removeAttribute('aria-sort'));
    cell.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    draw();
  };
  const heads = COLUMNS.map(([key, label, , , title]) => {
    const cell = h('th', { scope: 'col', title });
    cell.append(button(label, () => sortBy(key, cell), { 'data-sort': key }));
    return cell;
  });
  draw();
  return h('div', { class: 'scroll' }, h('table', { class: 'methods' }, h('thead', {}, h('tr', {}, heads)), body));
};

const reading = () => {
  const apart = worked.slice(1).filter((m) => isNumber(m.cosine)).sort((a, b) => a.cosine - b.cosine);
  const lines = [];
  if (apart.length) {
    const far = apart[0], near = apart.at(-1);
    lines.push(`${far.method} points furthest from what the run did (cosine ${minus(far.cosine.toFixed(3))}, ${times(far.ratio)}).`);
    if (near !== far) lines.push(`${near.method} is nearest (cosine ${minus(near.cosine.toFixed(3))}, ${times(near.ratio)}).`);
  }
  if (isNumber(data.check?.apart)) lines.push(`The run recorded a gradient norm of ${num(data.check.recorded_norm, 6)}; replayed, it differs by ${num(data.check.apart, 2)} of it.`);
  lines.push('AdamW divides by the size of past gradients, so a constant factor between two methods matters little after a while; the direction does.');
  return h('p', { class: 'lead' }, lines.join(' '));
};

// ---- the texts: colour is credit, or how it differs from the run's

class Texts {
  constructor() {
    this.method = worked.length > 1 ? worked[1].method : own;
    this.kind = worked.length > 1 ? 'change' : 'credit';
    this.list = h('div', { class: 'replays' });
    this.note = h('div', { class: 'inspect', 'aria-live': 'polite', style: { '--h': `${56 + 23.5 * worked.length}px` } }, h('p', { class: 'hint' }, 'Point at a token, or click it, to see its credit under every method.'));
    section('texts', 'Which tokens changed credit', 'The attempts that the methods see most differently. Credit is what the objective adds to a token’s log-probability, relative: 1 is the mean size.',
      h('div', { class: 'controls' },
        h('span', { class: 'field' }, 'Method', choice('Method', worked.map((m) => [m.method, m.method]), this.method, (m) => { this.method = m; this.draw(); })),
        h('span', { class: 'field' }, 'Colour', choice('Colour', [['credit', 'its credit'], ['change', 'change from the run']], this.kind, (k) => { this.kind = k; this.draw(); })),
        h('span', { class: 'scalekey' }, h('i', { class: 'up' }), 'pushed up', h('i', { class: 'down' }), 'pushed down')),
      this.note, this.list);
    this.draw();
  }

  value(a, k) { return a.credit[this.method][k] - (this.kind === 'change' ? a.credit[own][k] : 0); }

  draw() {
    const top = Math.max(1e-9, ...data.attempts.flatMap((a) => a.tokens.map((_, k) => Math.abs(this.value(a, k)))));
    this.list.replaceChildren(...data.attempts.map((a) => h('article', { class: 'card replayed' },
      h('p', { class: 'facts' }, [a.source && words(a.source), `task ${a.task}`, isNumber(a.reward) && `reward ${num(a.reward)}`, a.finish === 'length' && 'cut off'].filter(Boolean).map((f) => h('span', {}, f))),
      h('pre', { class: 'prompt' }, a.prompt),
      h('p', { class: 'said' }, a.tokens.map((token, k) => this.token(a, k, token, this.value(a, k) / top))))));
  }

  token(a, k, token, x) {
    const show = (e) => {
      this.inspect(a, k, token);
      if (e.type !== 'click') return;
      this.list.querySelectorAll('.tk[aria-pressed=true]').forEach((t) => t.removeAttribute('aria-pressed'));
      e.currentTarget.setAttribute('aria-pressed', 'true');
    };
    return button(token.replace(/\n/g, '⏎') || '∅', show, { class: `tk ${x < 0 ? 'down' : 'up'}`, onpointerenter: show, onfocus: show, style: { '--a': `${Math.round(Math.sqrt(Math.abs(x)) * 100)}%` } });
  }

  inspect(a, k, token) {
    const largest = Math.max(1e-9, ...worked.map((m) => Math.abs(a.credit[m.method][k])));
    this.note.replaceChildren(h('p', {}, h('code', {}, JSON.stringify(token)), h('small', {}, ` token ${k + 1} of ${a.tokens.length}, task ${a.task}`)),
      h('dl', { class: 'bars' }, worked.map((m) => [h('dt', {}, m.method), h('dd', {},
        h('i', { class: a.credit[m.method][k] < 0 ? 'down' : 'up', style: { '--w': `${(50 * Math.abs(a.credit[m.method][k])) / largest}%` } }), h('b', {}, signed(a.credit[m.method][k], num)))])));
  }
}

const changedTokens = () => {
  const names = Object.keys(data.changed).filter((name) => data.changed[name].length);
  if (!names.length) return;
  const box = h('div', {});
  const draw = (name) => box.replaceChildren(h('div', { class: 'scroll' }, h('table', { class: 'methods changed' },
    h('thead', {}, h('tr', {}, ['token', 'attempt', 'place', own, name].map((t) => h('th', { scope: 'col' }, t)))),
    h('tbody', {}, data.changed[name].map((c) => h('tr', {}, h('th', { scope: 'row' }, h('code', {}, JSON.stringify(c.token))),
      [c.attempt, c.place + 1, signed(c.before, num), signed(c.after, num)].map((v) => h('td', {}, String(v)))))))));
  draw(names[0]);
  section('tokens', 'The tokens that changed most', null, h('div', { class: 'controls' }, choice('Compared with the run', names.map((n) => [n, n]), names[0], draw)), box);
};

document.querySelector('main').append(h('section', { class: 'hero', id: 'start' },
  h('h1', {}, `Step ${data.step}, replayed`),
  h('p', { class: 'facts' }, [data.run, plural(data.groups, 'group'), plural(data.trajectories, 'attempt'), plural(data.tokens, 'token')].filter(Boolean).map((f) => h('span', {}, f)))));
section('methods', 'What each method would have done', null, reading(), methodTable(),
  methods.some((m) => m.error) && h('ul', { class: 'note' }, methods.filter((m) => m.error).map((m) => h('li', {}, `${m.method}: ${m.error}`))));
if (data.attempts.length) new Texts();
changedTokens();
