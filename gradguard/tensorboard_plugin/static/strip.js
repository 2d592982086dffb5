// The verdicts over the steps: a line for the whole model and a row for each tensor, filtered, sorted and grouped.
import {h} from './dom.js';
import {SORTS, arrange, visible} from './groups.js';
import {layerRow, screenRow, tensorRow} from './rows.js';
import {cursor, stepAxis, stepScale} from './timeline.js';

const LEGEND = [
  ['bug', 'bug'],
  ['unclear', 'cannot tell'],
  ['explained', 'within float precision, or as declared'],
  ['ok', 'ok'],
];

// `view` holds the filter, the sorting, the switch and the open layers; `onView` is called after each change of it.
export function strip(overview, chosen, view, choose, onView) {
  const scale = stepScale(overview);
  const list = h('div', {class: 'rows', onkeydown: (event) => onKey(event, overview, chosen, view, choose)});
  const drawRows = () => list.replaceChildren(rows(overview, scale, chosen, view, choose, drawRows));
  const change = (changes) => {
    Object.assign(view, changes);
    drawRows();
    onView();
  };
  drawRows();
  return h(
    'section',
    {class: 'card strip'},
    h('div', {class: 'heading'}, h('h2', {}, 'Verdict of each tensor, step by step'), legend(overview)),
    controls(view, change),
    screenRow(overview, scale),
    list,
    stepAxis(overview, scale),
    h(
      'p',
      {class: 'muted hint'},
      'Click a row, or use the arrow keys: up and down for tensors, left and right for checks.',
    ),
  );
}

function legend({tensors, screen}) {
  const isStale = tensors.some(({stale}) => stale.length) || screen.screened.some((count) => !count);
  return h(
    'p',
    {class: 'legend'},
    [...LEGEND, ...(isStale ? [['stale', 'not checked']] : [])].map(([kind, words]) =>
      h('span', {}, h('i', {class: `swatch ${kind}`}), words),
    ),
  );
}

function controls(view, change) {
  const options = Object.entries(SORTS).map(([value, words]) =>
    h('option', {value, selected: value === view.sort}, words),
  );
  return h(
    'div',
    {class: 'controls'},
    h('input', {
      type: 'search',
      id: 'filter',
      'data-key': 'filter',
      'aria-label': 'Show tensors whose names contain',
      placeholder: 'filter names',
      value: view.filter,
      oninput: (event) => change({filter: event.target.value}),
    }),
    h(
      'select',
      {
        id: 'sort',
        'data-key': 'sort',
        'aria-label': 'Order of the tensors',
        onchange: (event) => change({sort: event.target.value}),
      },
      options,
    ),
    h(
      'label',
      {},
      h('input', {
        type: 'checkbox',
        id: 'only',
        'data-key': 'only',
        checked: view.only,
        onchange: (event) => change({only: event.target.checked}),
      }),
      ' only wrong or in doubt',
    ),
  );
}

function rows(overview, scale, chosen, view, choose, redraw) {
  const groups = arrange(overview.tensors, view);
  const shown = visible(groups, view.open);
  if (!groups.some(({tensors}) => tensors.length)) {
    return h('p', {class: 'muted empty'}, `None of the ${overview.tensors.length} tensors matches.`);
  }
  const reached = shown.find(({name}) => name === chosen.tensor) ?? shown[0];
  const listbox = (label, {layer, tensors}) =>
    h(
      'div',
      {class: layer ? 'members' : null, role: 'listbox', 'aria-label': label},
      tensors.map((tensor) => {
        const state = {isChosen: tensor.name === chosen.tensor, isReached: tensor === reached};
        return tensorRow(tensor, layer, overview, scale, state, choose);
      }),
    );
  const drawGroup = (group) => {
    if (!group.layer) return listbox('Tensors', group);
    const isOpen = view.open.has(group.layer);
    const toggle = () => {
      view.open[isOpen ? 'delete' : 'add'](group.layer);
      redraw();
      document.querySelector(`[data-key="${CSS.escape(`layer ${group.layer}`)}"]`)?.focus();
    };
    return [layerRow(group, scale, isOpen, toggle), isOpen ? listbox(`Tensors of ${group.layer}`, group) : null];
  };
  return h(
    'div',
    {class: 'all'},
    groups.map(drawGroup),
    h('div', {class: 'cursor-track', 'aria-hidden': 'true'}, cursor(scale, chosen.step)),
  );
}

function onKey(event, {tensors, steps}, chosen, view, choose) {
  if (event.target.getAttribute('role') !== 'option') return;
  const shown = visible(arrange(tensors, view), view.open);
  const row = shown.findIndex(({name}) => name === chosen.tensor);
  const check = steps.indexOf(chosen.step);
  const moves = {
    ArrowUp: () => ({tensor: shown[Math.max(0, row - 1)].name}),
    ArrowDown: () => ({tensor: shown[Math.min(shown.length - 1, row + 1)].name}),
    ArrowLeft: () => ({step: steps[Math.max(0, check - 1)]}),
    ArrowRight: () => ({step: steps[Math.min(steps.length - 1, check + 1)]}),
    Home: () => ({step: steps[0]}),
    End: () => ({step: steps.at(-1)}),
  };
  if (!moves[event.key]) return;
  event.preventDefault();
  choose(moves[event.key]());
}
