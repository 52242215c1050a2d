// What a recorded group says about its plays: which attempts belong together, what a turn is, what was in context.

const parentOf = (group, i) => {
  const parent = group.turns[i].parent;
  return isNumber(parent) && parent >= 0 && parent !== i && group.turns[parent] ? parent : -1;
};
const push = (map, key, value) => (map.has(key) ? map.get(key).push(value) : map.set(key, [value]));
const callsOf = (t) => (Array.isArray(t.info?.calls) ? t.info.calls.filter((c) => c && typeof c === 'object') : []);
const digested = new WeakMap();

// Of a group, made once: `owners` and `children` of each turn, `plays`, and which tool calls a turn makes or answers.
const factsOf = (group) => {
  if (digested.has(group)) return digested.get(group);
  const facts = { owners: group.turns.map(() => []), children: group.turns.map(() => []), plays: new Map(), calls: new Map(), answers: new Map(), roles: [] };
  group.turns.forEach((_, i) => { const p = parentOf(group, i); if (p >= 0) facts.children[p].push(i); });
  for (const t of group.trajectories) {
    new Set(t.turns).forEach((i) => facts.owners[i].push(t));
    if (isNumber(t.episode)) push(facts.plays, t.episode, t);
    const said = t.turns.filter((i) => group.turns[i].author !== 'env'), mine = new Map();
    callsOf(t).forEach((call) => { if (said[call.turn] !== undefined) push(mine, said[call.turn], call); });
    for (const [i, calls] of mine) {
      const next = t.turns[t.turns.indexOf(i) + 1];
      facts.calls.set(i, calls);
      if (next !== undefined && group.turns[next].author === 'env') facts.answers.set(next, calls);
    }
  }
  facts.roles = [...new Set([...group.trajectories.map((t) => t.role), ...group.turns.map((t) => t.author)])]
    .filter((r) => r !== null && r !== undefined && r !== 'env').map(String).sort();
  digested.set(group, facts);
  return facts;
};

const authorHue = (group, author) => (author === 'env' ? 'var(--slate)' : hue(Math.max(0, factsOf(group).roles.indexOf(String(author)))));
const matesOf = (group, t) => factsOf(group).plays.get(t.episode) ?? [t];
const severalRoles = (mates) => new Set(mates.map((t) => t.role)).size > 1;
const saidOf = (group, t) => t.turns.filter((i) => group.turns[i].sampled);
const textOf = (turn) => turn.tokens.join('');
const kindOf = (group, i) => {
  const turn = group.turns[i];
  if (turn.author !== 'env') return turn.sampled ? 'policy' : 'other';
  return factsOf(group).answers.has(i) ? 'tool' : parentOf(group, i) < 0 ? 'prompt' : 'observation';
};

// Attempts are compared within request, role and, where the environment names one, a group of its own.
const comparisons = (group) => {
  const found = new Map();
  group.trajectories.forEach((t) => push(found, JSON.stringify([t.role, t.group]), t));
  return [...found.values()];
};
const noSignal = (group) => comparisons(group).every((list) => new Set(list.map((t) => t.reward).filter(isNumber)).size < 2);
const ending = (group, t) => {
  const why = t.info?.finish, last = saidOf(group, t).at(-1);
  if (typeof why === 'string' && /limit|full|length|trunc/i.test(why)) return why;
  return last !== undefined && group.turns[last].finish === 'length' ? 'length limit' : '';
};

// Turns in the order of time, each after what it continues. An environment's turn, which several plays may share,
// waits for the first turn that has it in context. `fresh` opens a context anew, `back` goes on from an earlier turn.
const inOrder = (group, wanted, laneOf = () => 0) => {
  const { children } = factsOf(group), set = new Set(wanted), done = new Set(), items = [], last = new Map();
  const put = (i) => {
    if (done.has(i)) return;
    done.add(i);
    const parent = parentOf(group, i), lane = laneOf(i);
    if (parent >= 0) put(parent);
    const before = last.get(lane);
    items.push({ i, turn: group.turns[i], member: set.has(i), lane, fresh: before !== undefined && parent < 0, back: before !== undefined && parent >= 0 && before !== parent ? parent : -1 });
    last.set(lane, i);
  };
  const waits = (i) => group.turns[i].author === 'env' && children[i].some((c) => c !== i && set.has(c));
  [...set].filter((i) => !waits(i)).forEach(put);
  return items;
};
const contextOf = (group, i) => {
  const seen = new Set();
  for (let p = i; p >= 0 && !seen.has(p); p = parentOf(group, p)) seen.add(p);
  return seen;
};
const contextBefore = (group, i) => [...contextOf(group, i)].reduce((sum, p) => sum + (p === i ? 0 : group.turns[p].length), 0);

// ---- tool calls

const OUTCOMES = { ok: ['good', '✓'], 'tool error': ['warn', '✕'], timeout: ['late', '◷'], refused: ['warn', '⊘'], fault: ['warn', '⚡'] };
const outcomeBadge = (outcome) => {
  const [kind, sign] = OUTCOMES[outcome] ?? ['', '?'];
  return badge(`${sign} ${outcome ?? 'unknown'}`, kind);
};
const toolName = (call) => asText(call.name || call.tool || 'unreadable call');
const argumentsOf = (call) => {
  const given = call.arguments;
  if (!given || typeof given !== 'object') return given === undefined || given === null ? '' : asText(given);
  return Object.entries(given).map(([k, v]) => `${k}: ${typeof v === 'string' ? v : JSON.stringify(v)}`).join(', ');
};
const callLine = (call) => h('p', { class: 'call' }, h('b', {}, toolName(call)), h('code', {}, argumentsOf(call)),
  outcomeBadge(call.outcome), isNumber(call.seconds) && h('small', {}, duration(call.seconds)));
