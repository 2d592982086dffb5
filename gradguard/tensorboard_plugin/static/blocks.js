// The ratio n / g of each named block of a tensor, such as the gates of an LSTM.
import {axis, colours, figure, guides, logarithmic, placeholder} from './charts.js';
import {withDate} from './dates.js';
import {table} from './dom.js';
import {label, level, number, plain, ratio} from './words.js';

const SYMBOLS = {ok: 'circle', explained: 'circle-open', unclear: 'diamond-open', bug: 'x'};

export function blocks(plotly, tensor, step) {
  const title = withDate('Named blocks, such as gates, side by side', tensor, step);
  const entries = Object.entries(tensor.blocks);
  if (!entries.length) {
    const words = tensor.deep
      ? "This tensor has no named blocks: GradGuard(blocks={'W': gates('ifog', axis=1)}) names them."
      : 'Only an examination measures blocks separately: choose a check with an alert, or the first.';
    return placeholder(title, words);
  }
  return figure(plotly, title, chart(entries), numberTable(entries));
}

function chart(entries) {
  const measured = entries.filter(([, block]) => block.ratio != null);
  const palette = colours();
  const positive = measured.every(([, block]) => block.ratio > 0);
  const all = [
    1,
    ...measured.flatMap(([, {ratio, ratio_error: error}]) => [ratio - (error ?? 0), ratio + (error ?? 0)]),
  ];
  const log = positive && all.every((value) => value > 0) && Math.max(...all) / Math.min(...all) > 4;
  const trace = {
    type: 'scatter',
    mode: 'markers+text',
    showlegend: false,
    x: measured.map(([, block]) => block.ratio),
    y: measured.map(([name]) => plain(name)),
    error_x: {
      type: 'data',
      array: measured.map(([, block]) => block.ratio_error ?? 0),
      thickness: 1.4,
      width: 4,
      color: palette.muted,
    },
    marker: {
      size: 11,
      color: measured.map(([, block]) => palette[level(block.verdict)]),
      symbol: measured.map(([, block]) => SYMBOLS[level(block.verdict)]),
    },
    text: measured.map(([, block]) => plain(` ${number(block.ratio, 5)} ${label(block.verdict)}`)),
    textposition: 'top center',
    textfont: {size: 11},
    cliponaxis: false,
    hoverinfo: 'skip',
  };
  const yaxis = axis('', {type: 'category', range: [measured.length - 0.4, -0.8], showgrid: false});
  const line = guides([{at: 1, words: 'n = g', colour: palette.ink, dash: 'solid', log}], 'v');
  return {
    traces: [trace],
    layout: {
      xaxis: axis('n / g', {...(log ? logarithmic(all) : {}), range: paddedRange(log ? all.map(Math.log10) : all)}),
      yaxis,
      ...line,
    },
  };
}

// The range of the values, with room at both ends for the labels of the points.
function paddedRange(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = Math.max((most - least) * 0.3, Math.abs(most) * 1e-4);
  return [least - room, most + room];
}

function numberTable(entries) {
  const rows = entries.map(([name, block]) => [
    name,
    label(block.verdict),
    ratio(block.ratio, block.ratio_error),
    number(block.discrepancy),
    number(block.floor),
    `${block.resolvable ?? '–'} of ${block.sampled ?? '–'}`,
  ]);
  return table(['block', 'verdict', 'n / g', 'd', 'floor', 'resolvable'], rows);
}
