// The entry point of the page that `gradguard report --html` writes.
import {start} from './app.js';
import {pageSource} from './source.js';

const dark = matchMedia('(prefers-color-scheme: dark)');

function applyTheme() {
  document.documentElement.dataset.theme = dark.matches ? 'dark' : 'light';
  document.dispatchEvent(new Event('themechange'));
}

applyTheme();
dark.addEventListener('change', applyTheme);
start(document.body, pageSource(JSON.parse(document.getElementById('data').textContent)));
