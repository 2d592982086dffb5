// The entry point for TensorBoard, which calls render() in a frame.
import {start} from './app.js';
import {follow} from './host.js';
import {serverSource} from './source.js';

export async function render() {
  const style = document.createElement('link');
  style.rel = 'stylesheet';
  style.href = './static/style.css';
  document.head.append(style);
  document.documentElement.lang = 'en';
  document.title = 'GradGuard';
  const refresh = start(document.body, serverSource());
  follow(refresh);
}
