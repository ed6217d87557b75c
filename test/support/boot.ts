/**
 * Starts what `npm run build` made on an embedded PostgreSQL: it must become ready, answer, and end
 * with 0 after SIGTERM. The last step of `npm run check`.
 */
import { once } from 'node:events';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startBuiltService } from './built-service.js';
import { sendRequest } from './http-client.js';

const PATHS = ['/health/live', '/health/ready', '/docs/', '/docs/openapi.json', '/metrics'];

export async function run(): Promise<number> {
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-boot-'));
  const service = await startBuiltService({ DATA_DIR: dataDir, SHUTDOWN_GRACE_SECONDS: '2' });
  try {
    for (const path of PATHS) {
      const { status } = await sendRequest(service.url + path, 'GET');
      if (status !== 200) throw new Error(`GET ${path} was answered with ${status}, not 200`);
    }
    const ended = once(service.child, 'exit');
    service.child.kill('SIGTERM');
    const [code, signal] = (await ended) as [number | null, NodeJS.Signals | null];
    if (code !== 0) {
      throw new Error(`After SIGTERM the service ended with ${code ?? signal}, not 0`);
    }
  } finally {
    await service.stop();
  }
  console.log('The built service starts, answers and stops.');
  return 0;
}
