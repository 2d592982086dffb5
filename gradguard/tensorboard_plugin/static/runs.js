// The menu of the runs, and a line on each of them; the worst are first.
import {h, table} from './dom.js';
import {STATE_MARKS} from './words.js';

const STATES = {bug: 'with a bug', recovered: 'recovered', unclear: 'in doubt', fine: 'fine', empty: 'without checks'};

export function menu(runs, chosen, chooseRun) {
  const options = runs.map(({name, state}) =>
    h('option', {value: name, selected: name === chosen}, `${STATE_MARKS[state]} ${shown(name)}`),
  );
  return h('select', {id: 'run', onchange: (event) => chooseRun(event.target.value)}, options);
}

export function overviewOfRuns(runs, chosen, chooseRun, view) {
  if (runs.length < 2) return null;
  const rows = runs.map(({name, state, headline, checks, last}, i) => [
    h('b', {class: `mark ${state}`}, STATE_MARKS[state]),
    name === chosen
      ? h('b', {}, shown(name))
      : h('button', {class: 'link', 'data-key': `run ${i}`, onclick: () => chooseRun(name)}, shown(name)),
    headline,
    checks.toLocaleString('en'),
    last?.toLocaleString('en') ?? '–',
  ]);
  return h(
    'details',
    {class: 'card runs', open: view.showsRuns, ontoggle: (event) => (view.showsRuns = event.target.open)},
    h('summary', {}, `${runs.length} runs: ${counts(runs)}`),
    table(['', 'run', 'verdict', 'checks', 'last step'], rows),
  );
}

function counts(runs) {
  return Object.entries(STATES)
    .map(([state, words]) => [runs.filter((run) => run.state === state).length, words])
    .filter(([count]) => count)
    .map(([count, words]) => `${count} ${words}`)
    .join(', ');
}

function shown(run) {
  return run === '.' ? '. (the log directory itself)' : run;
}
