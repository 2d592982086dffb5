// The page: it holds the chosen run, tensor and step, and redraws when one of them, the data or the theme changes.
import {alerts} from './alerts.js';
import {detail} from './detail.js';
import {card, h} from './dom.js';
import {SORTS, layerOf} from './groups.js';
import {onLink, readLink, writeLink} from './link.js';
import {menu, overviewOfRuns} from './runs.js';
import {strip} from './strip.js';
import {sweep} from './sweep.js';
import {verdict} from './verdict.js';
import {setVerdicts} from './words.js';

const NO_DATA = 'No run here holds gradguard data.';
const NO_DATA_HELP =
  'Attach GradGuard(model.params, logdir="runs/lstm") to a training, and choose its folder as --logdir. Logs of gradguard before 0.1 hold curves only.';
const NO_PLOTLY =
  "The charts are drawn with plotly, which is not installed where TensorBoard runs: pip install 'gradguard[tab]'. Until then there are tables.";

// Draws the page into `root`, and returns a function that reads the data again.
export function start(root, source) {
  const chosen = {run: null, tensor: null, step: null};
  const view = {filter: '', sort: 'worst', only: false, open: new Set(), showsRuns: false};
  const bar = h('header', {class: 'bar'});
  const main = h('main', {}, h('p', {class: 'muted'}, 'Reading …'));
  const link = h('a', {class: 'permalink', target: '_top'}, 'link to this view');
  root.append(bar, main);
  let state = {runs: [], plotly: null, overview: null, tensor: null};
  let latestRequest = 0;

  function follow({run, tensor, step, filter = '', sort, only}) {
    Object.assign(chosen, {run, tensor, step: step == null ? null : Number(step)});
    Object.assign(view, {filter, sort: sort in SORTS ? sort : 'worst', only: Boolean(only)});
  }

  async function refresh() {
    await runLatest(async (isCurrent) => {
      const {runs, plotly, verdicts} = await source.runs();
      if (!isCurrent()) return;
      if (plotly && runs.length) source.expectPlotly();
      setVerdicts(verdicts);
      state.runs = runs;
      state.hasPlotly = plotly;
      if (!runs.some(({name}) => name === chosen.run)) follow({...view, run: runs[0]?.name ?? null});
      drawBar();
      if (!runs.length) return main.replaceChildren(emptyPage());
      await read(isCurrent);
    });
  }

  async function read(isCurrent) {
    const overview = await source.run(chosen.run);
    if (!isCurrent()) return;
    const wasLatest = chosen.step == null || chosen.step === state.overview?.steps.at(-1);
    state.overview = overview;
    updateChoice(overview, wasLatest);
    state.tensor = null;
    draw();
    const [plotly] = await Promise.all([state.hasPlotly ? source.plotly() : null, readTensor(isCurrent)]);
    state.plotly = plotly;
    if (isCurrent()) draw();
  }

  // Keeps the chosen tensor and step if they still exist. Else chooses the worst tensor, at the check to begin with.
  function updateChoice({tensors, steps, start: first}, wasLatest) {
    if (!tensors.some(({name}) => name === chosen.tensor)) {
      chosen.tensor = tensors[0]?.name ?? null;
      chosen.step = null;
    }
    if (chosen.step == null) chosen.step = first;
    else if (!steps.includes(chosen.step))
      chosen.step = wasLatest ? steps.at(-1) : (steps.findLast((step) => step <= chosen.step) ?? steps[0]);
    if (chosen.tensor != null) view.open.add(layerOf(chosen.tensor));
  }

  async function readTensor(isCurrent) {
    if (chosen.step == null) return;
    const {run, tensor, step} = chosen;
    const read = await source.tensor(run, tensor, step).catch((error) => ({error: error.message}));
    if (isCurrent()) state.tensor = read;
  }

  async function choose({tensor = chosen.tensor, step}) {
    Object.assign(chosen, {tensor, step: step ?? chosen.step});
    view.open.add(layerOf(tensor));
    await runLatest(async (isCurrent) => {
      await readTensor(isCurrent);
      if (isCurrent()) draw();
    });
  }

  async function chooseRun(run) {
    Object.assign(chosen, {run, tensor: null, step: null});
    drawBar();
    await runLatest(read);
  }

  // Runs an action; only the latest one may change the page, and its error is shown.
  async function runLatest(action) {
    const request = ++latestRequest;
    const isCurrent = () => request === latestRequest;
    try {
      await action(isCurrent);
    } catch (error) {
      if (isCurrent()) main.replaceChildren(errorCard(error, refresh));
    }
  }

  function drawBar() {
    const key = document.activeElement?.id;
    bar.replaceChildren(
      h('b', {class: 'logo'}, 'GradGuard'),
      ...(state.runs.length ? [h('label', {for: 'run'}, 'run'), menu(state.runs, chosen.run, chooseRun), link] : []),
    );
    if (key === 'run') bar.querySelector('#run').focus();
  }

  // The address has what differs from how a page begins.
  function drawLink() {
    const {filter, sort, only} = view;
    link.href = writeLink({...chosen, filter, sort: sort === 'worst' ? '' : sort, only});
  }

  function draw() {
    const {overview, tensor, plotly} = state;
    if (!overview) return;
    drawLink();
    const runs = overviewOfRuns(state.runs, chosen.run, chooseRun, view);
    if (!overview.tensors.length)
      return main.replaceChildren(
        ...[runs, verdict(overview), card('', sweep(plotly, overview.sweep))].filter(Boolean),
      );
    const scrolled = main.querySelector('.rows')?.scrollTop ?? 0;
    const key = document.activeElement?.dataset.key;
    for (const drawing of main.querySelectorAll('.drawing')) plotly.purge(drawing);
    main.replaceChildren(
      ...(runs ? [runs] : []),
      verdict(overview),
      strip(overview, chosen, view, choose, drawLink),
      ...(state.hasPlotly ? [] : [h('p', {class: 'card problem'}, NO_PLOTLY)]),
      ...(tensor && (plotly || !state.hasPlotly)
        ? [detail(overview, chosen, tensor, plotly, choose)]
        : [h('section', {class: 'card detail waiting'}, 'Drawing …')]),
      alerts(overview, choose),
    );
    main.querySelector('.rows').scrollTop = scrolled;
    if (key) main.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  }

  document.addEventListener('themechange', draw);
  onLink((values) => {
    follow(values);
    refresh();
  });
  follow(readLink());
  refresh();
  return refresh;
}

function emptyPage() {
  return h('section', {class: 'card'}, h('h1', {}, NO_DATA), h('p', {class: 'muted'}, NO_DATA_HELP));
}

function errorCard(error, retry) {
  return h(
    'section',
    {class: 'card problem'},
    h('p', {}, `The data could not be read: ${error.message}`),
    h('button', {onclick: retry}, 'Try again'),
  );
}
