/**
 * The embedded PostgreSQL's supervisor: runs the command given as arguments (the postmaster) and forwards its log lines
 * over IPC. The server lives exactly as long as the process that asked for it: when the channel closes, even because
 * that process was SIGKILLed, the server is shut down, and no terminal's Ctrl-C gets there first.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

const [command, ...args] = process.argv.slice(2);

// A service manager signals every process of a group at once; the service is to drain before its database goes.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => undefined);

const server = spawn(command, args, { stdio: ['ignore', 'ignore', 'pipe'] });
let stopping = false;

const send = (message) => {
  // The parent may die between the check and the write: nobody is left to tell.
  if (process.connected) process.send(message, () => undefined);
};

const stop = () => {
  if (stopping) return;
  stopping = true;
  server.kill('SIGINT'); // fast shutdown: roll back what is open, checkpoint, exit
  server.kill('SIGCONT'); // a server that someone paused must still hear it
  setTimeout(() => server.kill('SIGQUIT'), 10_000).unref(); // immediate: the next start recovers from the log
  setTimeout(() => server.kill('SIGKILL'), 20_000).unref();
};

createInterface({ input: server.stderr }).on('line', (line) => send({ line }));
server.on('spawn', () => send({ pid: server.pid }));
server.on('error', (error) => {
  send({ line: `FATAL:  ${error.message}` });
  process.disconnect?.();
});
// 'close' and not 'exit', so that the last line, which says why, has been sent.
server.on('close', (code, signal) => {
  if (!process.connected) process.exit();
  process.send({ ended: signal ?? `exit code ${code}` }, () => process.exit());
});
process.on('message', stop);
process.on('disconnect', stop);
if (!process.connected) stop();
