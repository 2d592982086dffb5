// The verdicts over the steps: one row for each tensor. Height and hatching show the level without colour.
import {h} from './dom.js';
import {MARKS, agrees, label, level, words} from './words.js';

const LEGEND = [
  ['bug', 'bug'],
  ['unclear', 'cannot tell'],
  ['explained', 'float precision explains it, or meant'],
  ['ok', 'ok'],
];
const MAX_TICKS = 400;
const PERCENT_PER_LETTER = 0.9; // of the strip's width; a word that needs more is left out

export function strip(overview, chosen, choose) {
  const scale = stepScale(overview);
  const isStale = overview.tensors.some(({stale_since: since}) => since != null);
  const rows = overview.tensors.map((tensor) => row(tensor, overview, scale, chosen, choose));
  const list = h(
    'div',
    {
      class: 'rows',
      role: 'listbox',
      'aria-label': 'Tensors',
      onkeydown: (event) => onKey(event, overview, chosen, choose),
    },
    h(
      'div',
      {class: 'all', role: 'presentation'},
      rows,
      h('div', {class: 'cursor-track', 'aria-hidden': 'true'}, cursor(scale, chosen.step)),
    ),
  );
  return h(
    'section',
    {class: 'card strip'},
    h(
      'div',
      {class: 'heading'},
      h('h2', {}, 'Verdict of each tensor, step by step'),
      h(
        'p',
        {class: 'legend'},
        [...LEGEND, ...(isStale ? [['stale', 'not looked at since']] : [])].map(([kind, words]) => h('span', {}, h('i', {class: `swatch ${kind}`}), words)),
      ),
    ),
    list,
    axis(overview, scale),
    h(
      'p',
      {class: 'muted hint'},
      'Click a row, or use the arrow keys: up and down for tensors, left and right for checks.',
    ),
  );
}

// Steps as percentages of the width. Each check lasts until the next; the last one gets the average width.
function stepScale({story, steps}) {
  const first = story.first ?? 0;
  const last = story.last ?? first;
  const end = last + Math.max((last - first) / Math.max(steps.length - 1, 25), 1);
  return {first, last, end, at: (step) => (100 * (step - first)) / (end - first)};
}

function row(tensor, overview, scale, chosen, choose) {
  const current = tensor.changes.at(-1)?.[1];
  const selected = tensor.name === chosen.tensor;
  const {stale_since: since} = tensor;
  const shown = since != null && level(current) !== 'bug' ? 'unclear' : level(current);
  const spans = tensor.changes.map(([step, verdict], i) =>
    span(step, tensor.changes[i + 1]?.[0] ?? scale.end, verdict, scale),
  );
  return h(
    'div',
    {
      class: 'row',
      role: 'option',
      tabindex: selected ? 0 : -1,
      'aria-selected': String(selected),
      'aria-label': `${tensor.name}: ${label(current)} since step ${tensor.changes.at(-1)?.[0]}${since == null ? '' : `, not looked at from step ${since} on`}`,
      'data-key': selected ? 'row' : null,
      onclick: (event) => choose({tensor: tensor.name, step: clickedStep(event, overview.steps, scale) ?? chosen.step}),
    },
    h(
      'span',
      {class: 'name', title: tensor.name},
      h('b', {class: `mark ${shown}`}, MARKS[shown]),
      h('span', {}, tensor.name),
    ),
    h('span', {class: 'track'}, spans, since == null ? null : stale(since, scale)),
  );
}

function span(from, to, verdict, scale) {
  const left = scale.at(from);
  const width = scale.at(to) - left;
  const style = {left: `${left}%`, width: `${width}%`};
  const name = agrees(verdict) ? '' : words(verdict);
  const fits = name.length * PERCENT_PER_LETTER < width;
  const title = `${label(verdict)} from step ${from}`;
  return h('span', {class: `span ${level(verdict)}`, style, title}, name && fits ? h('em', {}, name) : null);
}

// Covers the end of a row: its verdict is of an earlier check.
function stale(since, scale) {
  const style = {left: `${scale.at(since)}%`, width: `${scale.at(scale.end) - scale.at(since)}%`};
  return h('span', {class: 'span stale', style, title: `not looked at from step ${since} on`});
}

function clickedStep(event, steps, scale) {
  const box = event.currentTarget.querySelector('.track').getBoundingClientRect();
  if (event.clientX < box.left) return null;
  const step = scale.first + ((event.clientX - box.left) / box.width) * (scale.end - scale.first);
  return steps.findLast((checked) => checked <= step) ?? steps[0];
}

function onKey(event, {tensors, steps}, chosen, choose) {
  const row = tensors.findIndex(({name}) => name === chosen.tensor);
  const check = steps.indexOf(chosen.step);
  const moves = {
    ArrowUp: () => ({tensor: tensors[Math.max(0, row - 1)].name}),
    ArrowDown: () => ({tensor: tensors[Math.min(tensors.length - 1, row + 1)].name}),
    ArrowLeft: () => ({step: steps[Math.max(0, check - 1)]}),
    ArrowRight: () => ({step: steps[Math.min(steps.length - 1, check + 1)]}),
    Home: () => ({step: steps[0]}),
    End: () => ({step: steps.at(-1)}),
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  choose(moves[event.key]());
}

function cursor(scale, step) {
  return step == null ? '' : h('i', {class: 'cursor', style: {left: `${scale.at(step)}%`}});
}

function axis({steps}, scale) {
  const every = Math.ceil(steps.length / MAX_TICKS);
  const ticks = steps.filter((_, i) => i % every === 0).map((step) => h('i', {style: {left: `${scale.at(step)}%`}}));
  const middle = Math.round((scale.first + scale.last) / 2);
  const labels = scale.last - scale.first > 3 ? [scale.first, middle, scale.last] : [scale.first];
  return h(
    'div',
    {class: 'axis', 'aria-hidden': 'true'},
    h('span', {class: 'name'}, 'step'),
    h(
      'span',
      {class: 'track'},
      ticks,
      labels.map((step) => h('span', {style: {left: `${scale.at(step)}%`}}, step.toLocaleString('en'))),
    ),
  );
}
