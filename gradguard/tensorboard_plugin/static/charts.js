// Common parts of the charts: the colours of the theme, the layout, and a table if plotly is not installed.
import {h} from './dom.js';

export function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: read('text'),
    muted: read('muted'),
    line: read('line'),
    card: read('card'),
    ok: read('ok'),
    explained: read('explained'),
    unclear: read('unclear'),
    bug: read('bug'),
    band: read('band'),
    ink: read('ink'),
  };
}

export function axis(title, more = {}) {
  const {line, muted} = colours();
  return {
    title: {text: title, font: {size: 12, color: muted}, standoff: 6},
    gridcolor: line,
    linecolor: line,
    zerolinecolor: line,
    tickfont: {size: 11, color: muted},
    automargin: true,
    exponentformat: 'power',
    tickangle: 0,
    ...more,
  };
}

// A chart with its title, drawn once it is on the page. `numbers` is a table of the same data; `onClick` handles clicks
// on points.
export function figure(plotly, title, spec, numbers, onClick) {
  const drawing = plotly ? h('div', {class: 'drawing', role: 'img', 'aria-label': title}) : null;
  const table = numbers ? (plotly ? h('details', {}, h('summary', {}, 'The numbers'), numbers) : numbers) : null;
  const element = h('figure', {}, h('figcaption', {}, title), drawing, table);
  // Each chart is drawn in a task of its own, so that the page stays responsive.
  if (drawing) setTimeout(() => draw(plotly, drawing, spec, onClick));
  return element;
}

function draw(plotly, drawing, {traces, layout}, onClick) {
  const {text, card} = colours();
  const common = {
    margin: {l: 8, r: 12, t: 20, b: 8},
    paper_bgcolor: card,
    plot_bgcolor: card,
    font: {family: 'Roboto, system-ui, sans-serif', size: 12, color: text},
    hovermode: 'closest',
    showlegend: traces.some((trace) => trace.showlegend !== false && trace.name),
    legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', font: {size: 11}, bgcolor: 'rgba(0,0,0,0)'},
    dragmode: 'zoom',
  };
  plotly.newPlot(
    drawing,
    traces,
    {...common, ...layout},
    {displayModeBar: false, responsive: true, displaylogo: false},
  );
  if (onClick) drawing.on('plotly_click', onClick);
}

// Dashed lines across the whole chart, each with a label at one end.
export function guides(lines, direction = 'h') {
  const {muted, card} = colours();
  const isRow = direction === 'h';
  return {
    shapes: lines.map(({at, colour, dash}) => ({
      type: 'line',
      ...(isRow ? {xref: 'paper', x0: 0, x1: 1, y0: at, y1: at} : {yref: 'paper', y0: 0, y1: 1, x0: at, x1: at}),
      line: {color: colour ?? muted, width: 1.2, dash: dash ?? 'dash'},
      layer: 'below',
    })),
    annotations: lines.map(({at, words, log, left}) => {
      const position = log ? Math.log10(at) : at;
      return {
        text: words,
        showarrow: false,
        font: {size: 11, color: muted},
        bgcolor: card,
        borderpad: 0,
        ...(isRow
          ? {xref: 'paper', x: left ? 0 : 1, xanchor: left ? 'left' : 'right', y: position, yanchor: 'bottom'}
          : {yref: 'paper', y: 0, yanchor: 'bottom', x: position, xanchor: 'left', xshift: 3}),
      };
    }),
  };
}

// A logarithmic axis with ticks at powers of ten, and at 2 and 5 times those if there are few.
export function logarithmic(values) {
  const positive = values.filter((value) => value > 0);
  const decades = Math.log10(Math.max(...positive) / Math.min(...positive));
  return {type: 'log', dtick: decades < 2.5 ? 'D2' : Math.ceil(decades / 6)};
}

// Values for a logarithmic axis: a 0 among them stands a decade below the smallest other value of all, on a line "0".
export function withZeros(values, others = []) {
  const positive = [...values, ...others].filter((value) => value > 0);
  const bottom = Math.min(...positive, 1) / 10;
  const hasZero = values.includes(0);
  return {
    values: values.map((value) => (value === 0 ? bottom : value > 0 ? value : null)),
    range: hasZero ? [bottom, ...positive] : positive,
    lines: hasZero ? [{at: bottom, words: '0', log: true, left: true}] : [],
  };
}

// A text in place of a chart that has no data.
export function placeholder(title, words) {
  return h('figure', {}, h('figcaption', {}, title), h('p', {class: 'muted empty'}, words));
}
