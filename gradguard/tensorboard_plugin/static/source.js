// The sources of the data: TensorBoard's server, or the page itself.

async function fetchJson(route, parameters = {}) {
  const response = await fetch(`./${route}?${new URLSearchParams(parameters)}`);
  const content = await response.json().catch(() => ({error: `the server answered with status ${response.status}`}));
  if (!response.ok) throw new Error(content.error);
  return content;
}

// Loads the plotly script, which is no module: it sets the global variable Plotly.
function loadPlotly(script) {
  return new Promise((resolve, reject) => {
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error('plotly is installed and could not be loaded: reload the page'));
    document.head.append(script);
  });
}

// Fetches the plotly script beside the data. To run it takes a second, which the first sentence does not wait for.
function preload(address) {
  document.head.append(Object.assign(document.createElement('link'), {rel: 'preload', as: 'script', href: address}));
}

const PLOTLY = './plotly.js';

export function serverSource() {
  let plotly;
  return {
    runs: () => fetchJson('runs'),
    run: (name) => fetchJson('run', {run: name}),
    tensor: (run, name, step) => fetchJson('tensor', {run, tensor: name, step}),
    expectPlotly: () => plotly ?? preload(PLOTLY),
    plotly: () => (plotly ??= loadPlotly(Object.assign(document.createElement('script'), {src: PLOTLY}))),
  };
}

export function pageSource(content) {
  return {
    runs: async () => ({
      runs: content.summaries,
      plotly: Boolean(window.Plotly),
      verdicts: content.verdicts,
    }),
    run: async (name) => content.runs[name].overview,
    tensor: async (run, name, step) => {
      const {tensors, checks} = content.runs[run];
      if (checks[step]) return {...tensors[name], report: checks[step][name]};
      return {
        ...tensors[name],
        error: `the entries of the check at step ${step} were left out to keep this page small`,
      };
    },
    expectPlotly: () => {},
    plotly: async () => window.Plotly,
  };
}
