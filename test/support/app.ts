/**
 * The application as it is served, on a database of its own and a free port, for tests that speak real HTTP to it. `raw` is
 * for what no HTTP client would send.
 */
import http from 'node:http';
import https from 'node:https';
import { connect } from 'node:net';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { DestinationStream } from 'pino';
import { createApp } from '../../src/app.js';
import { type Config, loadConfig } from '../../src/config.js';
import { createPino, PinoLogger } from '../../src/telemetry/logger.js';
import { createTestDatabase } from './postgres.js';

/** A response, read to its end. `body` is the parsed JSON of any JSON type, else the text. */
export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  // What a test expects of a body is in its assertions.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  readonly body: any;
  readonly text: string;
}

export interface Call {
  readonly token?: string | undefined;
  /** Text and bytes go as they are, anything else as JSON. */
  readonly body?: unknown;
  /** A list sends the field that many times. */
  readonly headers?: Readonly<Record<string, string | string[]>>;
}

export interface TestApp {
  readonly app: NestFastifyApplication;
  readonly url: string;
  readonly databaseUrl: string;
  readonly config: Config;
  call(method: string, path: string, options?: Call): Promise<Reply>;
  /** Sends bytes as they are and gives all that comes back until the server closes or a second passes. */
  raw(bytes: string): Promise<string>;
  close(): Promise<void>;
}

export const ADMIN = { username: 'root-admin', password: 'the admin of all the tests' } as const;

/** Starts one node. With `databaseUrl` it shares another's database, else it gets its own. `log` takes what it logs. */
export async function startApp(
  env: Readonly<Record<string, string>> = {},
  databaseUrl?: string,
  log?: DestinationStream,
): Promise<TestApp> {
  const own = databaseUrl === undefined ? await createTestDatabase() : undefined;
  const config = loadConfig({
    DATABASE_URL: own?.url ?? databaseUrl,
    PORT: '0',
    LOG_LEVEL: 'silent',
    LOG_FORMAT: 'json',
    RATE_LIMIT_PER_MINUTE: '0',
    ADMIN_USERNAME: ADMIN.username,
    ADMIN_PASSWORD: ADMIN.password,
    SHUTDOWN_GRACE_SECONDS: '0',
    ...env,
  });
  const app = await createApp(config, new PinoLogger(createPino(config, log)));
  await app.listen(0, '127.0.0.1');
  const url = await app.getUrl();
  return {
    app,
    url,
    databaseUrl: config.databaseUrl as string,
    config,
    call: (method, path, options) => callUrl(url + path, method, options),
    raw: (bytes) => sendRaw(Number(new URL(url).port), bytes),
    close: async () => {
      await app.close();
      await own?.drop();
    },
  };
}

/** Connections are kept, as clients do; fetch is not used since it adds headers of its own (`Cache-Control` to a conditional request). */
const agents = {
  'http:': new http.Agent({ keepAlive: true }),
  'https:': new https.Agent({ keepAlive: true }),
};

export async function callUrl(
  url: string,
  method: string,
  { token, body, headers = {} }: Call = {},
): Promise<Reply> {
  const payload = body === undefined || body instanceof Buffer ? body : Buffer.from(textOf(body));
  const options = {
    method,
    agent: url.startsWith('https:') ? agents['https:'] : agents['http:'],
    headers: {
      ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
      ...(payload === undefined
        ? {}
        : { 'Content-Type': 'application/json', 'Content-Length': payload.length }),
      ...headers,
    },
  };
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    const { request } = url.startsWith('https:') ? https : http;
    request(url, options, resolve).on('error', reject).end(payload);
  });
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  const received = new Headers();
  for (let at = 0; at < response.rawHeaders.length; at += 2)
    received.append(response.rawHeaders[at] as string, response.rawHeaders[at + 1] as string);
  const isJson =
    /json/.test(received.get('content-type') ?? '') &&
    !/ndjson/.test(received.get('content-type') ?? '');
  return {
    status: response.statusCode as number,
    headers: received,
    text,
    body: isJson && text ? (JSON.parse(text) as unknown) : text,
  };
}

const textOf = (body: unknown): string => (typeof body === 'string' ? body : JSON.stringify(body));

function sendRaw(port: number, bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(Buffer.from(bytes, 'latin1')));
    let received = '';
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => (received += chunk));
    socket.on('error', reject);
    socket.on('close', () => resolve(received));
    socket.setTimeout(1_000, () => socket.destroy());
  });
}
