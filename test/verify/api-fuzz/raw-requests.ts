/**
 * Bytes on a connection that no HTTP client sends: malformed lines, framing that two readers read
 * differently (RFC 9112, section 11.2), pipelines, bytes behind a POST, and random damage.
 */
import { randomUUID } from 'node:crypto';
import { connect } from 'node:net';
import { type Reply, sendRequest } from '../../support/http-client.js';
import { Random } from '../../support/random.js';
import { type Check, type Finding, type Tally } from './checks.js';
import { isProblem } from './judge.js';
import { World } from './world.js';

interface RawCase {
  readonly name: string;
  /** In Latin-1. */
  readonly bytes: string;
  /** Allowed statuses of the last answer. Without them: any documented answer, or none. */
  readonly statuses?: readonly number[];
  /** Statuses that all answers must have, in this order. */
  readonly all?: readonly number[];
  readonly check?: Check;
  /** Whether what follows the first request may be a request of its own. */
  readonly mayHoldTwo?: boolean;
}

/** A path that only a smuggled request has: no answer may name it. */
const SMUGGLED = '/v1/smuggled-by-the-fuzz';
const SMUGGLED_REQUEST = `GET ${SMUGGLED} HTTP/1.1\r\nHost: a\r\n\r\n`;
/** Only ends a run that hangs: the service closes a connection after 10 s without a head. */
const MAX_SILENCE_MS = 60_000;
const HOST = 'Host: 127.0.0.1\r\n';
const JSON_TYPE = 'Content-Type: application/json\r\n';

const head = (line: string, fields = HOST): string => `${line}\r\n${fields}\r\n`;
const get = (fields: string): string => head('GET /health/live HTTP/1.1', HOST + fields);
const post = (fields: string, body: string): string =>
  head('POST /v1/sessions HTTP/1.1', HOST + JSON_TYPE + fields) + body;

const malformed = (name: string, bytes: string, ...statuses: number[]): RawCase => ({
  name,
  bytes,
  statuses: statuses.length > 0 ? statuses : [400],
});

const smuggling = (name: string, fields: string, body: string): RawCase => ({
  name,
  bytes: post(fields, body + SMUGGLED_REQUEST),
  statuses: [400, 501],
  check: 'raw-smuggling',
});

const CASES: readonly RawCase[] = [
  malformed('no request line', '\r\n\r\n\r\nx\r\n\r\n'),
  // Node reads it as HTTP/0.9.
  malformed('line without a version', head('GET /health/live'), 200, 400),
  malformed('version of the future', head('GET /health/live HTTP/3.7')),
  malformed('version 2 preface', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
  malformed('method with a space', head('GE T /health/live HTTP/1.1')),
  malformed('unknown method', head('BREW /health/live HTTP/1.1')),
  malformed('tab as separator', head('GET\t/health/live\tHTTP/1.1')),
  malformed('space in the target', head('GET /health live HTTP/1.1')),
  malformed('control in the target', head('GET /health\u0001 HTTP/1.1'), 400, 404),
  malformed('NUL in the target', head('GET /health\u0000 HTTP/1.1')),
  malformed('TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'),
  malformed('tunnel', head('CONNECT evil.example:443 HTTP/1.1'), 501),
  malformed('no Host', 'GET /health/live HTTP/1.1\r\n\r\n'),
  malformed('two Hosts', get('Host: evil.example\r\n')),
  malformed('Host with a path', head('GET /health/live HTTP/1.1', 'Host: a/b\r\n')),
  malformed('Host with a user', head('GET /health/live HTTP/1.1', 'Host: a@b\r\n')),
  malformed('field without a colon', get('broken\r\n')),
  malformed('field with a space before the colon', get('X-Broken : 1\r\n')),
  malformed('field without a name', get(': 1\r\n')),
  malformed('folded field', get('X-Folded: a\r\n b\r\n'), 200, 400),
  malformed('NUL in a field', get('X-Nul: a\u0000b\r\n')),
  malformed('bare CR in a field', get('X-Cr: a\rb\r\n')),
  malformed('bare LF in a field', get('X-Lf: a\nb\r\n')),
  malformed('lines that end with LF', 'GET /health/live HTTP/1.1\nHost: a\n\n', 200, 400),
  malformed('headers over 16 KiB', get(`X-Long: ${'x'.repeat(20_000)}\r\n`), 431),
  malformed('too many headers', get('X-Many: 1\r\n'.repeat(3_000)), 431),
  malformed('request line over 16 KiB', head(`GET /${'x'.repeat(20_000)} HTTP/1.1`), 431),
  malformed('upgrade', get('Connection: Upgrade\r\nUpgrade: websocket\r\n'), 200),
  smuggling('both lengths', 'Content-Length: 4\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n'),
  smuggling('two lengths', 'Content-Length: 0\r\nContent-Length: 44\r\n', ''),
  smuggling('two lengths in one field', 'Content-Length: 0, 44\r\n', ''),
  smuggling('negative length', 'Content-Length: -1\r\n', ''),
  smuggling('length with a sign', 'Content-Length: +0\r\n', ''),
  smuggling('length in hexadecimal', 'Content-Length: 0x0\r\n', ''),
  smuggling('enormous length', 'Content-Length: 99999999999999999999\r\n', ''),
  smuggling('empty length', 'Content-Length:\r\n', ''),
  smuggling('gzip, chunked', 'Transfer-Encoding: gzip, chunked\r\n', '0\r\n\r\n'),
  smuggling('chunked, gzip', 'Transfer-Encoding: chunked, gzip\r\n', '0\r\n\r\n'),
  smuggling('chunked twice', 'Transfer-Encoding: chunked, chunked\r\n', '0\r\n\r\n'),
  smuggling('two codings', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n', '0\r\n\r\n'),
  smuggling('coding with a tab', 'Transfer-Encoding:\tx chunked\r\n', '0\r\n\r\n'),
  smuggling('coding with a space before', 'Transfer-Encoding : chunked\r\n', '0\r\n\r\n'),
  smuggling('chunk of a bad size', 'Transfer-Encoding: chunked\r\n', 'zz\r\n\r\n'),
  smuggling('chunk of a negative size', 'Transfer-Encoding: chunked\r\n', '-1\r\n\r\n'),
  smuggling('chunk of a size with 0x', 'Transfer-Encoding: chunked\r\n', '0x1\r\na\r\n0\r\n\r\n'),
  smuggling('chunk of an enormous size', 'Transfer-Encoding: chunked\r\n', `${'f'.repeat(17)}\r\n`),
  smuggling('chunk longer than its size', 'Transfer-Encoding: chunked\r\n', '1\r\naa\r\n0\r\n\r\n'),
  smuggling('chunk that ends with LF', 'Transfer-Encoding: chunked\r\n', '1\na\n0\n\n'),
  {
    name: 'HTTP/1.0 with a coding',
    bytes:
      head('POST /v1/sessions HTTP/1.0', `${HOST}Transfer-Encoding: chunked\r\n`) + '0\r\n\r\n',
    statuses: [400],
    check: 'raw-smuggling',
  },
  {
    name: 'pipeline',
    bytes: get('') + get('') + get('Connection: close\r\n'),
    all: [200, 200, 200],
  },
  {
    name: 'pipeline with a bad end',
    bytes: `${get('')}${get('')}\u0000\r\n\r\n`,
    check: 'raw-commit',
  },
  {
    name: 'absolute form',
    bytes: head('GET http://evil.example/health/live HTTP/1.1'),
    all: [200],
  },
  { name: 'HTTP/1.0', bytes: 'GET /health/live HTTP/1.0\r\n\r\n', all: [200] },
  { name: 'incomplete head', bytes: 'GET /health/live HTTP/1.1\r\nHost: a\r\nX-Half' },
  { name: 'incomplete body', bytes: post('Content-Length: 100\r\n', '{"username":') },
  { name: 'incomplete chunk', bytes: post('Transfer-Encoding: chunked\r\n', '5\r\n{"u') },
  { name: 'nothing', bytes: '' },
];

/** What follows a complete POST on its connection. The answer to the POST must be the first. */
const TAILS: readonly string[] = [
  '',
  '\r\n',
  '\u0000\u0001\u0002',
  'GARBAGE\r\n\r\n',
  'GET / HTTP/9.9\r\n\r\n',
  'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n',
  `GET /${'x'.repeat(20_000)} HTTP/1.1\r\n\r\n`,
  'POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{',
];

export interface RawOptions {
  readonly origin: string;
  readonly tally: Tally;
  readonly seed: number;
  /** Requests with random damage. */
  readonly damaged: number;
}

/** Sends all of the above. Each connection is followed by a request that must be answered. */
export async function runRawPhase(options: RawOptions): Promise<void> {
  const phase = new RawPhase(options);
  for (const rawCase of CASES) await phase.send(rawCase);
  for (const tail of TAILS) await phase.commit(tail);
  const random = new Random(options.seed);
  for (let count = 0; count < options.damaged; count++) {
    const { name, bytes } = random.pick(CASES);
    const damaged = damage(bytes, random);
    const mayHoldTwo = !hasLinesOf(damaged, bytes);
    await phase.send({ name: `damaged: ${name}`, bytes: damaged, mayHoldTwo });
  }
}

/** Lines that say where a body ends. */
const LENGTHS = /^(?:Content-Length|Transfer-Encoding)\b.*\r\n/gm;

/** Whether damage has left these lines as they were. Otherwise the request may have no body. */
const hasLinesOf = (damaged: string, bytes: string): boolean =>
  (bytes.match(LENGTHS) ?? []).every((line) => damaged.includes(`\n${line}`));

/** Replaces, inserts, removes or repeats some characters. */
function damage(bytes: string, random: Random): string {
  let damaged = bytes.slice(0, 4_000);
  for (let count = random.between(1, 4); count > 0; count--) {
    const at = random.between(0, damaged.length);
    const [before, after] = [damaged.slice(0, at), damaged.slice(at)];
    const character = String.fromCharCode(random.between(0, 255));
    const changes = [
      before + character + after,
      before + after.slice(1),
      before + character + after.slice(1),
      `${before}\r\n${after}`,
      before + after.slice(0, 20) + after,
    ];
    damaged = random.pick(changes);
  }
  return damaged;
}

class RawPhase {
  private readonly port: number;
  private readonly world: World;

  constructor(private readonly options: RawOptions) {
    this.port = Number(new URL(options.origin).port);
    this.world = new World(options.origin);
  }

  async send({
    name,
    bytes,
    statuses,
    all,
    check = 'raw-connection',
    mayHoldTwo = false,
  }: RawCase): Promise<void> {
    const { replies, rest } = parseReplies(await this.transmit(bytes));
    const seen = replies.map(({ status }) => status);
    this.expect('raw-connection', name, bytes, rest === '', `not an answer: ${rest}`);
    const broken = replies.find((reply) => reply.status >= 400 && !isProblem(reply));
    this.expect('problem-form', name, bytes, !broken, `not a problem: ${broken?.text}`);
    const isSmuggled = replies.some(({ text }) => text.includes(SMUGGLED));
    const mayFollow = !isSmuggled || mayHoldTwo;
    this.expect('raw-smuggling', name, bytes, mayFollow, 'a part of the body is a request');
    const isError = seen.find((status) => status >= 500 && status !== 501);
    this.expect('not_a_server_error', name, bytes, isError === undefined, `status ${isError}`);
    if (all) {
      this.expect(check, name, bytes, seen.join() === all.join(), `answers ${seen.join()}`);
    }
    if (statuses) {
      const isAsExpected = seen.length === 1 && statuses.includes(seen[0] as number);
      this.expect(check, name, bytes, isAsExpected, `answers ${seen.join()}`);
    }
    await this.probe(name, bytes);
  }

  /** An order, followed by bytes on the same connection: committed, so it must be answered. */
  async commit(tail: string): Promise<void> {
    await this.world.prepare();
    const [caller] = this.world.callersOf('user');
    const body = '{"currency":"EUR","items":[{"sku":"A","name":"A","quantity":1,"unitPrice":1}]}';
    const fields = [
      HOST + JSON_TYPE.trimEnd(),
      `Authorization: Bearer ${caller?.session.token}`,
      `Idempotency-Key: ${randomUUID()}`,
      `Content-Length: ${body.length}`,
      '',
    ];
    const bytes = head('POST /v1/orders HTTP/1.1', fields.join('\r\n')) + body + tail;
    const { replies } = parseReplies(await this.transmit(bytes));
    const name = `order, then ${JSON.stringify(tail.slice(0, 20))}`;
    const status = replies[0]?.status;
    this.expect('raw-commit', name, bytes, status === 201, `the first answer is ${status}`);
    await this.probe(name, bytes);
  }

  /** The service answers other connections, whatever happened on this one. */
  private async probe(name: string, bytes: string): Promise<void> {
    const reply = await sendRequest(`${this.options.origin}/health/live`, 'GET').catch(
      (error: unknown) => String(error),
    );
    const isServing = typeof reply !== 'string' && reply.status === 200;
    this.expect('still-serving', name, bytes, isServing, 'GET /health/live fails afterwards');
  }

  private expect(check: Check, kind: string, bytes: string, holds: boolean, details: string): void {
    const { tally } = this.options;
    tally.countCheck(check);
    if (holds) return;
    const escaped = JSON.stringify(bytes.slice(0, 2_000)).replace(/'/g, `'\\''`);
    const printBytes = `process.stdout.write(Buffer.from(${escaped},"latin1"))`;
    const curl = `node -e '${printBytes}' | nc 127.0.0.1 ${this.port}`;
    const finding: Finding = { check, operation: kind, kind: 'raw', details, curl };
    tally.report(finding);
  }

  /** Sends the bytes and ends this side. @returns what the service sends until it closes */
  private transmit(bytes: string): Promise<string> {
    this.options.tally.countRequest('raw connection');
    return new Promise((resolve) => {
      const socket = connect({ port: this.port, host: '127.0.0.1', allowHalfOpen: true });
      let received = '';
      socket.setEncoding('latin1');
      socket.on('data', (chunk: string) => (received += chunk));
      // A connection that is reset is closed, too.
      socket.on('error', () => undefined);
      socket.on('end', () => socket.end());
      socket.on('close', () => resolve(received));
      socket.setTimeout(MAX_SILENCE_MS, () => {
        received += 'the service left the connection open';
        socket.destroy();
      });
      socket.end(Buffer.from(bytes, 'latin1'));
    });
  }
}

/** Reads a sequence of responses with Content-Length or chunks. `rest` is what is none. */
export function parseReplies(text: string): { replies: Reply[]; rest: string } {
  const replies: Reply[] = [];
  let rest = text;
  for (;;) {
    const [, status, fields = ''] =
      /^HTTP\/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n/.exec(rest) ?? [];
    if (status === undefined) return { replies, rest };
    const headLength = rest.indexOf('\r\n\r\n') + 4;
    const headers = new Headers();
    for (const line of fields.split('\r\n').filter((field) => field !== '')) {
      const [name = '', ...value] = line.split(':');
      headers.append(name, value.join(':').trim());
    }
    const length = Number(headers.get('content-length') ?? 0);
    const body = rest.slice(headLength, headLength + length);
    rest = rest.slice(headLength + length);
    const isJson = headers.get('content-type')?.includes('json') === true;
    const decoded = Buffer.from(body, 'latin1').toString();
    replies.push({
      status: Number(status),
      headers,
      text: decoded,
      body: isJson && decoded.length > 0 ? parseOrUndefined(decoded) : decoded,
    });
  }
}

function parseOrUndefined(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
