// The page: it holds the chosen run, tensor and step, and redraws when one of them, the data or the theme changes.
import {alerts} from './alerts.js';
import {detail} from './detail.js';
import {card, h} from './dom.js';
import {strip} from './strip.js';
import {sweep} from './sweep.js';
import {verdict} from './verdict.js';
import {level, setVerdicts} from './words.js';

const NO_DATA = 'No run here holds gradguard data.';
const NO_DATA_HELP =
  'Attach GradGuard(model.params, logdir="runs/lstm") to a training, and choose its folder as --logdir. Logs of gradguard before 0.1 hold curves only.';
const NO_PLOTLY =
  "The charts are drawn with plotly, which is not installed where TensorBoard runs: pip install 'gradguard[tab]'. Until then there are tables.";

// Draws the page into `root`, and returns a function that reads the data again.
export function start(root, source) {
  const chosen = {run: null, tensor: null, step: null};
  const bar = h('header', {class: 'bar'});
  const main = h('main', {}, h('p', {class: 'muted'}, 'Reading …'));
  root.append(bar, main);
  let state = {runs: [], plotly: null, overview: null, check: null};
  let latestRequest = 0;

  async function refresh() {
    await runLatest(async (isCurrent) => {
      const {runs, plotly, verdicts} = await source.runs();
      if (!isCurrent()) return;
      setVerdicts(verdicts);
      state.runs = runs;
      state.hasPlotly = plotly;
      if (!runs.includes(chosen.run)) chosen.run = runs[0] ?? null;
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
    state.check = null;
    draw();
    const [plotly] = await Promise.all([state.hasPlotly ? source.plotly() : null, readCheck(isCurrent)]);
    state.plotly = plotly;
    if (isCurrent()) draw();
  }

  // Keeps the chosen tensor and step if they still exist. Else chooses the worst tensor, and its last check with an
  // alarm, or else its last deep check.
  function updateChoice({tensors, steps, alerts: alertList}, wasLatest) {
    if (!tensors.some(({name}) => name === chosen.tensor)) {
      chosen.tensor = tensors[0]?.name ?? null;
      chosen.step = null;
    }
    if (chosen.step == null) chosen.step = initialStep(tensors[0], steps, alertList);
    else if (!steps.includes(chosen.step))
      chosen.step = wasLatest ? steps.at(-1) : (steps.findLast((step) => step <= chosen.step) ?? steps[0]);
  }

  async function readCheck(isCurrent) {
    if (chosen.step == null) return;
    const check = await source.check(chosen.run, chosen.step).catch((error) => ({error: error.message}));
    if (isCurrent()) state.check = check;
  }

  async function choose({tensor = chosen.tensor, step = chosen.step}) {
    const isOtherStep = step !== chosen.step;
    Object.assign(chosen, {tensor, step});
    if (isOtherStep) await runLatest(readCheck);
    draw();
  }

  async function chooseRun(run) {
    Object.assign(chosen, {run, tensor: null, step: null});
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
    const options = state.runs.map((run) =>
      h('option', {value: run, selected: run === chosen.run}, run === '.' ? '. (the log directory itself)' : run),
    );
    const select = h('select', {id: 'run', onchange: (event) => chooseRun(event.target.value)}, options);
    bar.replaceChildren(
      h('b', {class: 'logo'}, 'GradGuard'),
      ...(state.runs.length ? [h('label', {for: 'run'}, 'run'), select] : []),
    );
  }

  function draw() {
    const {overview, check, plotly} = state;
    if (!overview) return;
    if (!overview.tensors.length)
      return main.replaceChildren(verdict(overview), card('', sweep(plotly, overview.sweep)));
    const scrolled = main.querySelector('.rows')?.scrollTop ?? 0;
    const key = document.activeElement?.dataset.key;
    for (const drawing of main.querySelectorAll('.drawing')) plotly.purge(drawing);
    main.replaceChildren(
      verdict(overview),
      strip(overview, chosen, choose),
      ...(state.hasPlotly ? [] : [h('p', {class: 'card problem'}, NO_PLOTLY)]),
      ...(check && (plotly || !state.hasPlotly)
        ? [detail(overview, chosen, check, plotly, choose)]
        : [h('section', {class: 'card detail waiting'}, 'Drawing …')]),
      alerts(overview, choose),
    );
    main.querySelector('.rows').scrollTop = scrolled;
    if (key) main.querySelector(`[data-key="${key}"]`)?.focus();
  }

  document.addEventListener('themechange', draw);
  refresh();
  return refresh;
}

function initialStep(tensor, steps, alertList) {
  const alarm = alertList.find(
    (alert) => alert.tensor === tensor?.name && level(alert.verdict) === 'bug' && steps.includes(alert.step),
  );
  const deep = steps.findLast((_, i) => tensor?.series.deep[i]);
  return alarm?.step ?? deep ?? steps.at(-1) ?? null;
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
