// Verdicts over the steps, as bars on a common scale. Height and hatching show the level without colour.
import {h} from './dom.js';
import {agrees, label, level, words} from './words.js';

const MAX_TICKS = 400;
const PERCENT_PER_LETTER = 0.9; // of the strip's width; a word that needs more is left out

// Steps as percentages of the width. Each check lasts until the next; the last one gets the average width.
export function stepScale({story, steps}) {
  const first = story.first ?? 0;
  const last = story.last ?? first;
  const end = last + Math.max((last - first) / Math.max(steps.length - 1, 25), 1);
  return {first, last, end, at: (step) => (100 * (step - first)) / (end - first)};
}

// The changes [step, verdict] as bars, and over them the parts [from, to] of which nothing is known.
export function track(changes, parts, scale) {
  const bars = changes.map(([step, verdict], i) => bar(step, changes[i + 1]?.[0] ?? scale.end, verdict, scale));
  return h(
    'span',
    {class: 'track'},
    bars,
    parts.map(([from, to]) => stale(from, to, scale)),
  );
}

function bar(from, to, verdict, scale) {
  const style = extent(from, to, scale);
  const name = agrees(verdict) ? '' : words(verdict);
  const fits = name.length * PERCENT_PER_LETTER < scale.at(to) - scale.at(from);
  const title = `${label(verdict)} from step ${from}`;
  return h('span', {class: `span ${level(verdict)}`, style, title}, name && fits ? h('em', {}, name) : null);
}

function stale(from, to, scale) {
  const title = `not checked from step ${from}${to == null ? ' on' : ` until step ${to}`}`;
  return h('span', {class: 'span stale', style: extent(from, to ?? scale.end, scale), title});
}

function extent(from, to, scale) {
  return {left: `${scale.at(from)}%`, width: `${scale.at(to) - scale.at(from)}%`};
}

export function clickedStep(event, steps, scale) {
  const box = event.currentTarget.querySelector('.track').getBoundingClientRect();
  if (event.clientX < box.left) return null;
  const step = scale.first + ((event.clientX - box.left) / box.width) * (scale.end - scale.first);
  return steps.findLast((checked) => checked <= step) ?? steps[0];
}

export function cursor(scale, step) {
  return step == null ? '' : h('i', {class: 'cursor', style: {left: `${scale.at(step)}%`}});
}

export function stepAxis({steps}, scale) {
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
