/**
 * Supervises the embedded server: runs the command given as arguments (the postmaster) and sends
 * its log lines over IPC. Invariant: the server runs as long as the process that asked for it. When
 * the IPC channel closes, even because that process was SIGKILLed, the supervisor stops the server.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** After a fast shutdown that does not end: immediate shutdown, with recovery at the next start. */
const IMMEDIATE_SHUTDOWN_AFTER_MS = 10_000;
const KILL_AFTER_MS = 20_000;

const [command, ...args] = process.argv.slice(2);

// Ctrl-C and service managers signal every process of a group at once. The service stops its
// database itself, after it has finished its requests.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => undefined);

const server = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
let isStopping = false;

const send = (message) => {
  // The callback: the parent may die between the check and the write, and nobody reads the error.
  if (process.connected) process.send(message, () => undefined);
};

const stop = () => {
  if (isStopping) return;
  isStopping = true;
  // SIGINT is PostgreSQL's fast shutdown: roll back open transactions, checkpoint, exit.
  server.kill('SIGINT');
  // A server that was paused with SIGSTOP handles the signal only after SIGCONT.
  server.kill('SIGCONT');
  setTimeout(() => server.kill('SIGQUIT'), IMMEDIATE_SHUTDOWN_AFTER_MS).unref();
  setTimeout(() => server.kill('SIGKILL'), KILL_AFTER_MS).unref();
};

createInterface({ input: server.stderr }).on('line', (line) => send({ line }));
server.on('spawn', () => send({ pid: server.pid }));
server.on('error', (error) => {
  send({ line: `FATAL:  ${error.message}` });
  process.disconnect?.();
});
// 'close' and not 'exit': the last line of the log, which gives the reason, was sent before.
server.on('close', (code, signal) => {
  if (!process.connected) process.exit();
  process.send({ ended: signal ?? `exit code ${code}` }, () => process.exit());
});
process.on('message', stop);
process.on('disconnect', stop);
if (!process.connected) stop();
