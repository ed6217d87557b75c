/**
 * Waits until the process that started it has ended (its end of the pipe closes), then ends every
 * process that still uses the run's folder and deletes the folder: `node janitor.mjs <folder>`.
 */
import { existsSync, rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeProcess, isProcessRunning, listProcesses } from './process-table.mjs';

/** PostgreSQL shuts down by itself when its owner ends (supervisor.mjs). It gets this long. */
const POSTGRES_SHUTDOWN_MS = 15_000;
const POLL_INTERVAL_MS = 50;

const [, , folder] = process.argv;

process.stdin.resume();
process.stdin.once('close', () => void cleanUp());
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => undefined);

async function cleanUp() {
  const deadline = Date.now() + POSTGRES_SHUTDOWN_MS;
  for (;;) {
    const users = usersOfFolder();
    const mayWait = Date.now() < deadline;
    for (const { pid, isPostgres } of users) {
      if (!isPostgres || !mayWait) kill(pid);
    }
    if (users.length === 0) removeFolder();
    if (users.length === 0 && !existsSync(folder)) process.exit();
    await sleep(POLL_INTERVAL_MS);
  }
}

function usersOfFolder() {
  return listProcesses()
    .filter(({ pid }) => pid !== process.pid)
    .map(({ pid }) => ({ pid, description: describeProcess(pid) }))
    .filter(({ pid, description }) => description.includes(folder) && isProcessRunning(pid))
    .map(({ pid, description }) => ({
      pid,
      isPostgres: /\bpostgres(?: -D |: )/.test(description),
    }));
}

function kill(pid) {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

function removeFolder() {
  try {
    rmSync(folder, { recursive: true, force: true });
  } catch {
    // A process that has just ended may leave a last file behind: the next turn tries again.
  }
}
