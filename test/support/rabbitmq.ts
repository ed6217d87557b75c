/**
 * A real RabbitMQ for one test file: with its own port, node name, folder and Erlang settings,
 * without epmd and plugins, so that it shares nothing with other brokers. It takes about 5 s to
 * start. Invariant: no broker outlives the process that started it.
 */
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'amqplib';
import { hasEnded, killProcess, spawnBound } from './child-process.js';
import { eventually } from './eventually.js';
import { freePort, onFreePort } from './free-port.js';
import { requireProgram } from './programs.js';

const START_TIMEOUT_MS = 100_000;
const CONNECT_TIMEOUT_MS = 1_000;

/** One broker under a test's control. Durable queues and persistent messages survive a restart. */
export interface RabbitmqServer {
  readonly port: number;
  readonly url: string;
  /** Ends the broker for good and removes its folder. Idempotent. */
  stop(): Promise<void>;
  /** SIGKILL, as in a crash. */
  kill(): Promise<void>;
  /** SIGSTOP: connections stay open, nothing answers. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
  /**
   * Kills the broker if it runs and starts it again on the same files and port.
   * @param config further lines of rabbitmq.conf
   */
  restart(config?: readonly string[]): Promise<void>;
}

/**
 * Starts a broker and waits until it accepts connections.
 * @param config further lines of rabbitmq.conf
 */
export async function startRabbitmq(config: readonly string[] = []): Promise<RabbitmqServer> {
  const program = requireProgram('rabbitmq-server');
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-rabbitmq-'));
  const launch = async (ports: Ports, lines: readonly string[]): Promise<ChildProcess> => {
    const broker = spawnBroker(program, folder, ports, lines);
    await awaitConnection(broker, ports.port, folder);
    return broker;
  };
  const started = await onFreePort(async (port) => {
    const ports = { port, distribution: await freePort() };
    return { ports, broker: await launch(ports, config) };
  });
  const { ports } = started;
  let { broker } = started;
  return {
    port: ports.port,
    url: `amqp://guest:guest@127.0.0.1:${ports.port}`,
    async stop() {
      await killProcess(broker);
      rmSync(folder, { recursive: true, force: true });
    },
    kill: () => killProcess(broker),
    pause: () => void broker.kill('SIGSTOP'),
    resume: () => void broker.kill('SIGCONT'),
    async restart(lines = []) {
      await killProcess(broker);
      broker = await launch(ports, [...config, ...lines]);
    },
  };
}

interface Ports {
  readonly port: number;
  /** Of Erlang's own protocol. */
  readonly distribution: number;
}

function spawnBroker(
  program: string,
  folder: string,
  { port, distribution }: Ports,
  config: readonly string[],
): ChildProcess {
  const logging = ['log.console = true', 'log.console.level = error', 'log.file = false'];
  mkdirSync(join(folder, 'conf.d'), { recursive: true });
  writeFileSync(join(folder, 'rabbitmq.conf'), [...logging, ...config, ''].join('\n'));
  writeFileSync(join(folder, 'plugins'), '[].\n');
  const erlangArgs = [
    '+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none', // one scheduler that does not spin
    '-noinput',
    `-start_epmd false -erl_epmd_port ${distribution}`, // a single node needs no discovery
  ].join(' ');
  const env = {
    PATH: process.env.PATH,
    HOME: folder,
    LANG: 'C.UTF-8',
    RABBITMQ_NODENAME: `holdfast-${port}@localhost`,
    RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
    RABBITMQ_NODE_PORT: String(port),
    RABBITMQ_DIST_PORT: String(distribution),
    RABBITMQ_MNESIA_BASE: join(folder, 'mnesia'),
    RABBITMQ_LOG_BASE: join(folder, 'log'),
    RABBITMQ_CONFIG_FILE: join(folder, 'rabbitmq'),
    RABBITMQ_CONFIG_FILES: join(folder, 'conf.d'),
    RABBITMQ_ADVANCED_CONFIG_FILE: join(folder, 'advanced'),
    RABBITMQ_CONF_ENV_FILE: join(folder, 'environment'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, 'plugins'),
    RABBITMQ_PID_FILE: join(folder, 'pid'),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: erlangArgs,
    // The script then replaces itself with Erlang: signals reach the broker itself.
    RABBITMQ_ALLOW_INPUT: 'true',
  };
  const script = ['-c', 'exec "$0" >>"$1" 2>&1', program, outputFile(folder)];
  const broker = spawnBound('sh', script, { env, cwd: folder, stdio: 'ignore' });
  broker.unref();
  return broker;
}

const outputFile = (folder: string): string => join(folder, 'output');

async function awaitConnection(broker: ChildProcess, port: number, folder: string): Promise<void> {
  const canConnect = async (): Promise<boolean> => {
    if (hasEnded(broker)) return true;
    const url = `amqp://guest:guest@127.0.0.1:${port}`;
    const connection = await connect(url, { timeout: CONNECT_TIMEOUT_MS });
    await connection.close();
    return true;
  };
  try {
    await eventually(`RabbitMQ accepts connections on port ${port}`, canConnect, START_TIMEOUT_MS);
  } catch (error) {
    await killProcess(broker);
    throw error;
  }
  if (hasEnded(broker)) {
    const lastLines = readFileSync(outputFile(folder), 'utf8').trim().split('\n').slice(-5);
    throw new Error(`rabbitmq-server ended: ${lastLines.join(' | ')}`);
  }
}
