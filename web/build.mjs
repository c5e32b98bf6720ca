// Bundles the pages into the Python package: `npm run build`. No file is fetched from anywhere when a page is shown.
import { build } from 'esbuild';
import { cp, mkdir, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const dist = here('../tertulia/node/pages/dist/');

await rm(dist, { recursive: true, force: true });
await mkdir(dist + 'assets', { recursive: true });
await build({
  entryPoints: { demo: here('src/demo.tsx'), check: here('src/check.tsx') },
  outdir: dist + 'assets',
  bundle: true,
  minify: true,
  format: 'esm',
  target: ['es2020'],
  jsx: 'automatic',
  define: { 'process.env.NODE_ENV': '"production"' },
  loader: { '.svg': 'dataurl' },
  legalComments: 'linked',
  logLevel: 'info',
});
for (const page of ['index.html', 'check.html']) await cp(here(page), dist + page);
await cp(here('icon.svg'), dist + 'assets/icon.svg');
