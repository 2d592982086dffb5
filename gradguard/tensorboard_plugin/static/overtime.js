// Ratio, discrepancy and sign agreement over the steps of the training.
import {axis, colours, figure, guides, logarithmic, placeholder, withZeros} from './charts.js';
import {table} from './dom.js';
import {label, level, number, plain, ratio as ratioText} from './words.js';

const MAX_ROWS = 20; // of a table; the latest checks
const LOGARITHMIC_SPREAD = 4; // largest over smallest ratio above which the axis is logarithmic

const NOT_MEASURED = 'No check that was kept could measure it.';

export function ratio(plotly, tensor, steps, chosen, choose) {
  const title = 'Ratio n / g, with its standard error';
  const {series, baseline, constants} = tensor;
  if (isEmpty(series.ratio)) return placeholder(title, NOT_MEASURED);
  const {explained, ok, ink} = colours();
  const lines = [
    {at: 1, words: 'n = g', colour: ink, dash: 'solid'},
    ...(baseline ? [{at: baseline, words: 'first confirmed', colour: ok, dash: 'dot', left: true}] : []),
    ...Object.entries(constants).map(([name, at]) => ({
      at,
      words: `${plain(name)} = ${number(at, 5)}`,
      colour: explained,
    })),
  ];
  const ratios = series.ratio.filter((value) => value != null);
  const range = [Math.min(...ratios, 1), Math.max(...ratios, 1)];
  const log = range[0] > 0 && range[1] / range[0] > LOGARITHMIC_SPREAD;
  const visible = lines.filter(({at}) => at === 1 || isNear(at, range, log)).map((one) => ({...one, log}));
  const traces = [curve(steps, series.ratio, 'n / g', {error: series.ratio_error, verdicts: series.verdict})];
  const rows = latestRows(series.ratio, (i) => [
    steps[i],
    label(series.verdict[i]),
    ratioText(series.ratio[i], series.ratio_error[i]),
  ]);
  return figure(
    plotly,
    title,
    {
      traces,
      layout: {
        xaxis: stepAxis(steps),
        yaxis: axis('n / g', log ? logarithmic(range) : {}),
        ...withStepLine(chosen, guides(visible)),
      },
    },
    table(['step', 'verdict', 'n / g'], rows, rowsCaption(rows)),
    chooseClickedStep(choose),
  );
}

export function discrepancy(plotly, {series}, steps, chosen, choose) {
  const title = 'Discrepancy d = ‖n − g‖ / (‖n‖ + ‖g‖) over the band of float precision';
  if (isEmpty(series.discrepancy)) return placeholder(title, NOT_MEASURED);
  const {band, explained} = colours();
  const floor = series.floor.map((value) => (value == null ? null : 2 * value));
  const zeros = withZeros(series.discrepancy, floor);
  const traces = [
    {
      type: 'scatter',
      mode: 'lines',
      name: 'rounding and truncation',
      x: steps,
      y: floor.map(positive),
      line: {color: explained, width: 1},
      connectgaps: true,
      fill: 'tozeroy',
      fillcolor: band,
      hoverinfo: 'skip',
    },
    curve(steps, zeros.values, 'd', {verdicts: series.verdict, texts: series.discrepancy}),
  ];
  const rows = latestRows(series.discrepancy, (i) => [
    steps[i],
    label(series.verdict[i]),
    number(series.discrepancy[i]),
    number(floor[i]),
  ]);
  return figure(
    plotly,
    title,
    {
      traces,
      layout: {
        xaxis: stepAxis(steps),
        yaxis: axis('d', logarithmic([...zeros.range, 1])),
        ...withStepLine(chosen, guides(zeros.lines)),
      },
    },
    table(['step', 'verdict', 'd', 'explained'], rows, rowsCaption(rows)),
    chooseClickedStep(choose),
  );
}

export function signs(plotly, {series}, steps, chosen, choose) {
  const title = 'Share of entries whose signs agree, with its 95 % interval';
  if (isEmpty(series.sign_agreement)) return placeholder(title, NOT_MEASURED);
  const {explained} = colours();
  const up = series.sign_agreement.map((share, i) => Math.max(0, (series.sign_high[i] ?? share) - share));
  const down = series.sign_agreement.map((share, i) => Math.max(0, share - (series.sign_low[i] ?? share)));
  const trace = curve(steps, series.sign_agreement, 'agree', {verdicts: series.verdict, colour: explained});
  trace.error_y = {type: 'data', array: up, arrayminus: down, thickness: 1, width: 2, color: explained};
  const rows = latestRows(series.sign_agreement, (i) => [
    steps[i],
    number(series.sign_agreement[i]),
    `${number(series.sign_low[i])} to ${number(series.sign_high[i])}`,
  ]);
  return figure(
    plotly,
    title,
    {
      traces: [trace],
      layout: {
        xaxis: stepAxis(steps),
        yaxis: axis('share', {range: [-0.03, 1.05], tickformat: '.0%'}),
        ...withStepLine(chosen),
      },
    },
    table(['step', 'signs agree', '95 % interval'], rows, rowsCaption(rows)),
    chooseClickedStep(choose),
  );
}

const SYMBOLS = {ok: 'circle', explained: 'circle', unclear: 'diamond-open', bug: 'x'};

// `texts` are the numbers to show where the points stand elsewhere.
function curve(steps, values, name, {error, verdicts, colour, texts = values} = {}) {
  const {ink, bug, unclear} = colours();
  const levels = verdicts.map(level);
  const fill = {ok: colour ?? ink, explained: colour ?? ink, unclear, bug};
  return {
    type: 'scatter',
    mode: 'lines+markers',
    name,
    showlegend: false,
    x: steps,
    y: values,
    connectgaps: true,
    line: {color: colour ?? ink, width: 1.4},
    marker: {size: 6, color: levels.map((one) => fill[one]), symbol: levels.map((one) => SYMBOLS[one])},
    error_y: error ? {type: 'data', array: error.map((one) => one ?? 0), thickness: 1, width: 2} : undefined,
    text: texts.map((value) => number(value, 5)),
    hovertemplate: `step %{x}, ${name} %{text}<extra></extra>`,
  };
}

function isNear(value, [least, most], log) {
  if (log) return value > least / 3 && value < most * 3;
  const margin = Math.max((most - least) * 0.5, 1e-12);
  return value > least - margin && value < most + margin;
}

// A vertical line at the chosen step, below the other shapes.
function withStepLine(step, {shapes = [], annotations = []} = {}) {
  if (step == null) return {shapes, annotations};
  const line = {
    type: 'line',
    yref: 'paper',
    y0: 0,
    y1: 1,
    x0: step,
    x1: step,
    layer: 'below',
    line: {color: colours().muted, width: 1, dash: 'dot'},
  };
  return {shapes: [...shapes, line], annotations};
}

function chooseClickedStep(choose) {
  return (event) => choose({step: event.points[0].x});
}

function stepAxis(steps) {
  return axis('training step', {tickformat: '~d', ...(steps.length < 4 ? {tickvals: steps} : {})});
}

function isEmpty(values) {
  return values.every((value) => value == null);
}

function positive(value) {
  return value > 0 ? value : null;
}

// A row for each of the latest checks that have a value.
function latestRows(values, row) {
  return values
    .flatMap((value, i) => (value == null ? [] : [i]))
    .slice(-MAX_ROWS)
    .reverse()
    .map(row);
}

function rowsCaption(rows) {
  return rows.length === MAX_ROWS ? `The latest ${MAX_ROWS} checks with a value` : undefined;
}
