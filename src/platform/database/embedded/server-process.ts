/**
 * One process of the embedded server, under its supervisor. Invariant: the server does not outlive
 * its owner, even when the owner or the supervisor is killed (supervisor.mjs).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { DeadlineExceededError, withDeadline } from '../../timing/deadline.js';
import { EmbeddedPostgresError } from './embedded-postgres.errors.js';
import { commandAs, findSetpriv, SERVER_ENVIRONMENT, type ServerUser } from './server-user.js';

export const SUPERVISOR = fileURLToPath(new URL('./supervisor.mjs', import.meta.url));

/** Includes crash recovery, which may take long on a slow disk. */
const START_TIMEOUT_MS = 120_000;
/** Log lines of a start, kept to explain its failure. */
const MAX_START_LINES = 200;
const READY_LINE = /database system is ready to accept (read-only )?connections/;

export interface ServerSettings {
  /** Path of the program. */
  readonly postgres: string;
  /** The cluster's folder. */
  readonly folder: string;
  readonly user: ServerUser | undefined;
  /** PostgreSQL settings as `name=value`. */
  readonly flags: readonly string[];
  /** Receives each line of the server's log. */
  readonly log: (line: string) => void;
}

export interface RunningServer {
  readonly port: number;
  /** Process id of the postmaster. */
  readonly pid: number;
  /** Resolves with one line when the server ends without {@link stop}; pending otherwise. */
  readonly exited: Promise<string>;
  /** Fast shutdown: open transactions roll back. Resolves when every process is gone. */
  stop(): Promise<void>;
}

export type StartResult =
  | { readonly server: RunningServer }
  /** The log of a server that ended before it was ready. */
  | { readonly lines: readonly string[] };

/**
 * Starts a server process and waits until it accepts connections or ends.
 * @param stalePid the process id in a postmaster.pid whose server is gone, so that PostgreSQL does
 *   not take the process that has this number now for a server
 * @throws EmbeddedPostgresError when neither happens in time
 */
export async function startServerProcess(
  settings: ServerSettings,
  port: number,
  stalePid: number | undefined,
): Promise<StartResult> {
  const child = await spawnSupervisor(settings, port, stalePid);
  const server = new ServerProcess(child, settings, port);
  try {
    await withDeadline(START_TIMEOUT_MS, 'The start of PostgreSQL', server.readyOrGone);
  } catch (error) {
    if (!(error instanceof DeadlineExceededError)) throw error;
    server.kill();
    throw new EmbeddedPostgresError(
      `The embedded PostgreSQL in ${settings.folder} was not ready within ${START_TIMEOUT_MS} ms`,
    );
  }
  return server.isReady ? { server: server.handOver() } : { lines: server.startLines };
}

async function spawnSupervisor(
  { postgres, folder, user, flags }: ServerSettings,
  port: number,
  stalePid: number | undefined,
): Promise<ChildProcess> {
  const setpriv = await findSetpriv();
  const serverSettings = [
    `port=${port}`,
    'listen_addresses=127.0.0.1',
    'unix_socket_directories=',
    ...flags,
  ];
  const { command, args, options } = commandAs(user, process.execPath, [
    SUPERVISOR,
    // The kernel interrupts the server when its supervisor dies.
    ...(setpriv ? [setpriv, '--pdeathsig=INT', '--'] : []),
    postgres,
    '-D',
    folder,
    ...serverSettings.flatMap((setting) => ['-c', setting]),
  ]);
  // pg_ctl uses this variable too: the process of this number is not a server.
  const stale = stalePid === undefined ? {} : { PG_GRANDPARENT_PID: String(stalePid) };
  return spawn(command, args, {
    ...options,
    env: { ...SERVER_ENVIRONMENT, ...stale },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    detached: true,
  });
}

/** What the supervisor sends over IPC. */
interface SupervisorMessage {
  readonly line?: string;
  readonly pid?: number;
  /** Why the server ended. */
  readonly ended?: string;
}

class ServerProcess {
  readonly startLines: string[] = [];
  /** Resolves at the first of the two. */
  readonly readyOrGone: Promise<unknown>;
  isReady = false;
  private readonly gone: Promise<unknown>;
  private markReady: () => void = () => undefined;
  private pid: number | undefined;
  private exitReason: string | undefined;
  private isStopping = false;

  constructor(
    private readonly child: ChildProcess,
    private readonly settings: ServerSettings,
    private readonly port: number,
  ) {
    const ready = new Promise<void>((resolve) => {
      this.markReady = resolve;
    });
    this.gone = once(child, 'close').catch((error: Error) => {
      // The supervisor itself could not be started.
      this.takeLine(`FATAL:  ${error.message}`);
    });
    this.readyOrGone = Promise.race([ready, this.gone]);
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      for (const line of text.trimEnd().split('\n')) this.takeLine(line);
    });
    child.on('message', (message: SupervisorMessage) => this.takeMessage(message));
  }

  private takeMessage({ line, pid, ended }: SupervisorMessage): void {
    this.pid ??= pid;
    this.exitReason ??= ended;
    if (line !== undefined) this.takeLine(line);
  }

  private takeLine(line: string): void {
    this.settings.log(line);
    if (this.pid !== undefined && READY_LINE.test(line)) {
      this.isReady = true;
      this.markReady();
    } else if (!this.isReady && this.startLines.length < MAX_START_LINES) {
      this.startLines.push(line);
    }
  }

  /** Ends a start that takes too long. */
  kill(): void {
    this.child.kill('SIGKILL');
    this.interruptOrphan();
  }

  /** The server for its owner. From here on it does not keep the owner's process alive. */
  handOver(): RunningServer {
    this.keepOwnerAlive(false);
    return {
      pid: this.pid as number,
      port: this.port,
      exited: this.watchForExit(),
      stop: () => this.stop(),
    };
  }

  private async watchForExit(): Promise<string> {
    await this.gone;
    if (this.exitReason === undefined) this.interruptOrphan();
    // Whoever stopped the server knows why it ended.
    if (this.isStopping) return new Promise(() => undefined);
    const reason = this.exitReason ?? 'its supervisor was killed';
    const line = `The embedded PostgreSQL in ${this.settings.folder} ended: ${reason}`;
    this.settings.log(line);
    return line;
  }

  private async stop(): Promise<void> {
    this.isStopping = true;
    this.keepOwnerAlive(true);
    if (this.child.connected) this.child.send('stop', () => undefined);
    await this.gone;
  }

  private keepOwnerAlive(isWanted: boolean): void {
    // Pipes are sockets, whose ref and unref the type of stderr leaves out.
    const stderr = this.child.stderr as unknown as { ref(): void; unref(): void } | null;
    for (const handle of [this.child, this.child.channel, stderr]) {
      if (isWanted) handle?.ref();
      else handle?.unref();
    }
  }

  /** Stops a server whose supervisor died. */
  private interruptOrphan(): void {
    if (this.pid === undefined) return;
    try {
      process.kill(this.pid, 'SIGINT');
    } catch {
      // Gone already: the kernel interrupted it (--pdeathsig).
    }
  }
}
