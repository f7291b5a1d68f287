// node build.mjs: makes big-orders.wasm. A plugin gets nothing of WASI, so everything that would need it is switched off.
import { componentize } from '@bytecodealliance/componentize-js';
import { writeFile } from 'node:fs/promises';

const { component } = await componentize({
  sourcePath: 'big-orders.js',
  witPath: process.env.WIT ?? '../../../wit',
  worldName: 'plugin',
  disableFeatures: ['stdio', 'random', 'clocks', 'http', 'fetch-event'],
});
await writeFile('big-orders.wasm', component);
