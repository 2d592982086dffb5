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

export function serverSource() {
  let plotly;
  return {
    runs: () => fetchJson('runs'),
    run: (name) => fetchJson('run', {run: name}),
    check: (name, step) => fetchJson('check', {run: name, step}),
    plotly: () => (plotly ??= loadPlotly(Object.assign(document.createElement('script'), {src: './plotly.js'}))),
  };
}

export function pageSource(content) {
  return {
    runs: async () => ({
      runs: Object.keys(content.runs),
      plotly: Boolean(window.Plotly),
      verdicts: content.verdicts,
    }),
    run: async (name) => content.runs[name].overview,
    check: async (name, step) => {
      const check = content.runs[name].checks[step];
      if (!check) throw new Error(`the entries of the check at step ${step} were left out to keep this page small`);
      return check;
    },
    plotly: async () => window.Plotly,
  };
}
