/**
 * Boots what was built, as `npm run start:prod` does, on an embedded PostgreSQL of its own: ready within half a minute, answers,
 * and ends with 0 on SIGTERM. The last step of `npm run check`.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const folder = await mkdtemp(join(tmpdir(), 'holdfast-boot-'));
const child = spawn(process.execPath, ['--enable-source-maps', 'dist/src/main.js'], {
  env: {
    PATH: process.env.PATH,
    PORT: '0',
    DATA_DIR: folder,
    LOG_FORMAT: 'json',
    SHUTDOWN_GRACE_SECONDS: '2',
  },
  stdio: ['ignore', 'pipe', 'inherit'],
});
const ended = new Promise((resolve) =>
  child.once('exit', (code, signal) => resolve(code ?? signal)),
);
try {
  const url = await new Promise((resolve, reject) => {
    let printed = '';
    const timer = setTimeout(() => reject(new Error(`not ready after 30 s:\n${printed}`)), 30_000);
    child.stdout.on('data', (chunk) => {
      printed += chunk;
      const match = /API (http:\S+)\/v1/.exec(printed);
      if (match) resolve(match[1]);
    });
    void ended
      .then((code) => reject(new Error(`ended with ${code}:\n${printed}`)))
      .finally(() => clearTimeout(timer));
  });
  for (const path of ['/health/live', '/health/ready', '/docs', '/docs/openapi.json', '/metrics']) {
    const { status } = await fetch(url + path);
    if (status !== 200) throw new Error(`${path} answers ${status}`);
  }
  child.kill('SIGTERM');
  const code = await ended;
  if (code !== 0) throw new Error(`SIGTERM ended it with ${code}`);
  process.stdout.write('What was built boots, answers and stops.\n');
} finally {
  child.kill('SIGKILL');
  await ended;
  await rm(folder, { recursive: true, force: true });
}
