// Numerical derivative n against backprop g for each entry, on signed logarithmic axes, with lines n = g and n = k g.
import {axis, colours, figure, placeholder} from './charts.js';
import {withDate} from './dates.js';
import {table} from './dom.js';
import {isFactor, level, number, place, plain} from './words.js';

const MAX_DECADES = 7; // on each side of zero
const MAX_ERROR_BARS = 4; // between n and g; entries of a wrong tensor beyond it are marked
const MAX_ROWS = 5; // of the table

export function pairs(plotly, tensor, step) {
  const title = withDate('Numerical gradient n against backprop g, each sampled entry', tensor, step);
  const entries = tensor.entries.filter(({analytic, numeric}) => analytic != null && numeric != null);
  const numbers = worstEntries(tensor);
  if (!entries.length) {
    const why = tensor.deep
      ? 'No entry of this tensor could be measured at this check.'
      : 'This check followed directions through the whole tensor and kept no single entries: choose a check with an alert, or the first.';
    return placeholder(title, why);
  }
  return figure(plotly, title, chart(tensor, entries), numbers);
}

function worstEntries({worst, entries, name}) {
  const rows = (worst.length ? worst : entries)
    .slice(0, MAX_ROWS)
    .map(({index, analytic, numeric, error}) => [
      `${name}${place(index)}`,
      number(numeric, 6),
      number(analytic, 6),
      number(error, 2),
      analytic ? number(numeric / analytic, 5) : '–',
    ]);
  return table(['entry', 'n', 'g', 'error of n', 'n / g'], rows, 'The entries furthest from n = g, in error bars');
}

function chart(tensor, entries) {
  const scale = signedLog(entries.flatMap(({analytic, numeric}) => [analytic, numeric]));
  const wrong = level(tensor.verdict) === 'bug';
  const disagrees = ({analytic, numeric, error}) =>
    wrong && Math.abs(numeric - analytic) > MAX_ERROR_BARS * (error ?? 0);
  const {ok, bug, ink} = colours();
  const traces = [
    line(scale, 1, 'n = g', {color: ink, width: 1.2}),
    ...factorLines(tensor, scale),
    points(
      tensor,
      entries.filter((entry) => !disagrees(entry)),
      scale,
      wrong ? 'agree' : 'entries',
      {
        color: ok,
        symbol: 'circle-open',
        size: 8,
        line: {width: 1.6},
      },
    ),
    points(tensor, entries.filter(disagrees), scale, 'disagree', {color: bug, symbol: 'x', size: 7}),
  ];
  const ticks = {tickvals: scale.ticks.map(scale.at), ticktext: scale.ticks.map(power), zeroline: true};
  return {
    traces: traces.filter((trace) => trace.x.length),
    layout: {xaxis: axis('backprop g', ticks), yaxis: axis('numerical n', ticks)},
  };
}

// The line n = k g of the tensor if one factor k explains its error, else the lines of blocks with such a factor.
function factorLines({verdict, ratio, blocks}, scale) {
  const hasFactor = (one) => isFactor(one.verdict) && one.ratio != null;
  const style = {color: colours().bug, width: 1.6, dash: 'dash'};
  if (hasFactor({verdict, ratio})) return [line(scale, ratio, `n = ${number(ratio, 5)} g`, style)];
  const wrong = Object.entries(blocks).filter(([, block]) => hasFactor(block));
  return wrong
    .slice(0, 2)
    .map(([name, block]) => line(scale, block.ratio, plain(`n = ${number(block.ratio, 5)} g on ${name}`), style));
}

function points({name}, entries, scale, words, marker) {
  const up = ({numeric, error}) => scale.at(numeric + (error ?? 0)) - scale.at(numeric);
  const down = ({numeric, error}) => scale.at(numeric) - scale.at(numeric - (error ?? 0));
  return {
    type: 'scatter',
    mode: 'markers',
    name: words,
    marker,
    x: entries.map(({analytic}) => scale.at(analytic)),
    y: entries.map(({numeric}) => scale.at(numeric)),
    error_y: {
      type: 'data',
      array: entries.map(up),
      arrayminus: entries.map(down),
      thickness: 1,
      width: 3,
      color: marker.color,
    },
    text: entries.map(({index, analytic, numeric, error}) =>
      plain(`${name}${place(index)}  n = ${number(numeric, 6)} ± ${number(error, 2)}  g = ${number(analytic, 6)}`),
    ),
    hoverinfo: 'text',
  };
}

function line(scale, k, name, style) {
  const x = scale.grid.filter((g) => Math.abs(k * g) <= scale.most * 1.5);
  return {
    type: 'scatter',
    mode: 'lines',
    name,
    line: style,
    hoverinfo: 'skip',
    x: x.map(scale.at),
    y: x.map((g) => scale.at(k * g)),
  };
}

// A scale that is linear near zero and logarithmic elsewhere, for both axes.
function signedLog(values) {
  const sizes = values.map(Math.abs).filter((size) => size > 0);
  const most = Math.max(...sizes, 1e-300);
  const least = Math.max(Math.min(...sizes, most), most * 10 ** -MAX_DECADES);
  const at = (value) => Math.sign(value) * Math.log10(1 + Math.abs(value) / least);
  const [low, high] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most))];
  const every = Math.max(1, Math.ceil((high - low) / 3));
  const top = Math.floor(Math.log10(most * 1.0001));
  const powers = Array.from({length: Math.floor((top - low) / every) + 1}, (_, i) => 10 ** (top - i * every));
  const fine = Array.from({length: 20 * (high - low + 1)}, (_, i) => 10 ** (low - 1 + i / 18));
  const rising = (list) => list.sort((a, b) => a - b);
  const withBothSigns = (list) => [...rising(list.map((size) => -size)), 0, ...rising(list)];
  return {
    at,
    most,
    ticks: withBothSigns(powers.filter((size, i) => i === 0 || size >= least * 5)),
    grid: withBothSigns(fine.filter((g) => g <= most * 1.5)),
  };
}

function power(value) {
  if (!value) return '0';
  return `${value < 0 ? '−' : ''}10<sup>${Math.round(Math.log10(Math.abs(value)))}</sup>`;
}
