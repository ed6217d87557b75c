/**
 * HTTP for tests and benchmarks. `fetch` is not used: it adds header fields of its own, e.g.
 * `Cache-Control` to a conditional request.
 */
import http from 'node:http';
import https from 'node:https';
import { connect } from 'node:net';

/** A response with its whole body. */
export interface Reply {
  readonly status: number;
  readonly headers: Headers;
  /** Parsed when the type is JSON (NDJSON is not), else the text. */
  // Each test asserts what it expects of a body.
  // eslint-disable-next-line @typescript-eslint/no-explicit-any
  readonly body: any;
  readonly text: string;
}

export interface RequestOptions {
  /** Sent as a bearer token. */
  readonly token?: string | undefined;
  /** Strings and buffers are sent unchanged, other values as JSON. */
  readonly body?: unknown;
  /** A field with several values is sent once for each of them. */
  readonly headers?: Readonly<Record<string, string | string[]>>;
}

/** Only ends what hangs: far longer than a server takes on a busy machine. */
const RAW_IDLE_TIMEOUT_MS = 60_000;

/** Connections are reused, as clients do. */
const AGENTS = {
  'http:': new http.Agent({ keepAlive: true }),
  'https:': new https.Agent({ keepAlive: true }),
};

/** Sends one request and reads the whole response, whatever its status. */
export async function sendRequest(
  url: string,
  method: string,
  options: RequestOptions = {},
): Promise<Reply> {
  const payload = payloadOf(options.body);
  const { origin, pathname, search } = new URL(url);
  const headers = headersOf(options, payload);
  return await sendUnchanged(origin, { method, path: pathname + search, headers, payload });
}

/** A request as it is sent. */
export interface WireRequest {
  readonly method: string;
  /** With the query. In no way normalized. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string | string[] | number>>;
  readonly payload?: Buffer | undefined;
}

/**
 * The same for a request that no URL of a client would make, e.g. with `..` in its path.
 * @throws SyntaxError when the response has the type of JSON but is not JSON
 */
export async function sendUnchanged(
  origin: string,
  { method, path, headers, payload }: WireRequest,
): Promise<Reply> {
  const isTls = origin.startsWith('https:');
  const requestOptions = { method, path, agent: AGENTS[isTls ? 'https:' : 'http:'], headers };
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    const { request } = isTls ? https : http;
    request(origin, requestOptions, resolve).on('error', reject).end(payload);
  });
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString();
  const received = receivedHeaders(response);
  const type = received.get('content-type') ?? '';
  const isJson = type.includes('json') && !type.includes('ndjson');
  return {
    status: response.statusCode as number,
    headers: received,
    text,
    body: isJson && text !== '' ? (JSON.parse(text) as unknown) : text,
  };
}

/**
 * Sends one request that must succeed.
 * @returns the body
 * @throws Error when the status is not 2xx
 */
export async function requestBody(
  url: string,
  method: string,
  options: RequestOptions = {},
): Promise<Reply['body']> {
  const { status, body, text } = await sendRequest(url, method, options);
  if (status < 200 || status > 299) throw new Error(`${method} ${url}: ${status} ${text}`);
  return body;
}

/**
 * Sends bytes that no HTTP client would send. The server must answer by closing the connection.
 * @returns everything that the server sends
 * @throws Error when the server keeps the connection open and is silent for 60 s
 */
export function sendRaw(port: number, bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(Buffer.from(bytes, 'latin1')));
    let received = '';
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => (received += chunk));
    socket.on('error', reject);
    socket.on('close', () => resolve(received));
    socket.setTimeout(RAW_IDLE_TIMEOUT_MS, () =>
      socket.destroy(new Error(`The server left the connection open after: ${received}`)),
    );
  });
}

function payloadOf(body: unknown): Buffer | undefined {
  if (body === undefined || body instanceof Buffer) return body;
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
}

function headersOf(
  { token, headers }: RequestOptions,
  payload: Buffer | undefined,
): Record<string, string | string[] | number> {
  return {
    ...(token === undefined ? {} : { Authorization: `Bearer ${token}` }),
    ...(payload && { 'Content-Type': 'application/json', 'Content-Length': payload.length }),
    ...headers,
  };
}

/** Every field as it was received: `response.headers` drops repeated ones. */
function receivedHeaders({ rawHeaders }: http.IncomingMessage): Headers {
  const headers = new Headers();
  for (let index = 0; index < rawHeaders.length; index += 2) {
    headers.append(rawHeaders[index] as string, rawHeaders[index + 1] as string);
  }
  return headers;
}
