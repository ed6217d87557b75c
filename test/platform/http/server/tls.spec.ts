/** HTTPS: its protocol versions and ciphers, and how it picks up a new certificate. */
import { once } from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { createApp } from '../../../../src/app.js';
import { ConfigError, loadConfig } from '../../../../src/config.js';
import { EarlyProblems } from '../../../../src/platform/http/server/early-problems.js';
import {
  readTlsPair,
  type TlsFiles,
  type TlsPair,
} from '../../../../src/platform/http/server/tls-pair.js';
import { TlsReload } from '../../../../src/platform/http/server/tls-reload.js';
import { startApp, type TestApp } from '../../../support/app.js';
import { makeCertificate } from '../../../support/certificates.js';
import { eventually } from '../../../support/eventually.js';

const FIRST = makeCertificate('first');
const SECOND = makeCertificate('second');
const RSA = makeCertificate('rsa', 'rsa');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-tls-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let mountCount = 0;

/**
 * A folder with a certificate and a key that are replaced as Kubernetes does: a new folder, and one
 * atomic rename of the link to it.
 */
class MountedPair {
  private readonly root = join(folder, `mount-${++mountCount}`);
  private version = 0;
  readonly files: TlsFiles = {
    certFile: join(this.root, 'live', 'tls.crt'),
    keyFile: join(this.root, 'live', 'tls.key'),
  };

  constructor(cert: string, key: string) {
    mkdirSync(this.root);
    this.mount(cert, key);
  }

  mount(cert: string, key: string): void {
    this.version++;
    const state = join(this.root, `version-${this.version}`);
    mkdirSync(state);
    writeFileSync(join(state, 'tls.crt'), cert);
    writeFileSync(join(state, 'tls.key'), key);
    symlinkSync(state, join(this.root, 'next'));
    renameSync(join(this.root, 'next'), join(this.root, 'live'));
  }
}

describe('a service with TLS_CERT_FILE and TLS_KEY_FILE', () => {
  let app: TestApp;
  let mounted: MountedPair;
  let port: number;
  const sockets = new Set<tls.TLSSocket>();

  beforeAll(async () => {
    mounted = new MountedPair(FIRST.cert, FIRST.key);
    const { certFile, keyFile } = mounted.files;
    app = await startApp({ TLS_CERT_FILE: certFile, TLS_KEY_FILE: keyFile });
    port = Number(new URL(app.url).port);
  });
  // Each test begins with the first certificate.
  beforeEach(async () => {
    mounted.mount(FIRST.cert, FIRST.key);
    await eventually(
      'the first certificate is served',
      async () => (await servedName()) === 'first',
    );
  });
  afterAll(async () => {
    for (const socket of sockets) socket.destroy();
    await app.close();
  });

  const connectTls = (options: tls.ConnectionOptions = {}): Promise<tls.TLSSocket> =>
    new Promise((resolve, reject) => {
      const socket = tls.connect(
        { port, host: '127.0.0.1', rejectUnauthorized: false, ...options },
        () => resolve(socket),
      );
      sockets.add(socket.on('error', reject));
    });

  /** The common name of the certificate that a new connection gets. */
  async function servedName(): Promise<string> {
    const socket = await connectTls();
    const { subject } = socket.getPeerCertificate();
    socket.destroy();
    return String(subject.CN);
  }

  const get = (path: string, options: https.RequestOptions): Promise<http.IncomingMessage> =>
    new Promise((resolve, reject) => {
      const request = https.get(`https://127.0.0.1:${port}${path}`, options, (response) => {
        response.resume().on('end', () => resolve(response));
      });
      request.on('error', reject);
    });
  const getLive = (options: https.RequestOptions) => get('/health/live', options);

  const OLD_PROTOCOL: tls.ConnectionOptions = {
    minVersion: 'TLSv1',
    maxVersion: 'TLSv1.1',
    ciphers: 'DEFAULT@SECLEVEL=0',
  };

  it('serves HTTPS with the certificate, and HSTS', async () => {
    expect(app.url).toMatch(/^https:/);
    const { statusCode, headers } = await getLive({ ca: FIRST.cert, agent: false });
    expect(statusCode).toBe(200);
    expect(headers['strict-transport-security']).toMatch(/^max-age=31536000/);
  });

  it('makes its pages load nothing without TLS', async () => {
    const { headers } = await get('/', { ca: FIRST.cert, agent: false });
    expect(headers['content-security-policy']).toContain('upgrade-insecure-requests');
  });

  it('answers a client that ends its side after its request', async () => {
    const socket = await connectTls();
    let received = '';
    socket.on('data', (chunk: Buffer) => (received += chunk.toString()));
    // Verifying a password takes longer than the end of this side.
    const body = JSON.stringify({ username: 'nobody', password: 'nothing' });
    const fields = `Content-Type: application/json\r\nContent-Length: ${body.length}`;
    socket.end(`POST /v1/sessions HTTP/1.1\r\nHost: x\r\n${fields}\r\n\r\n${body}`);
    await new Promise((resolve) => socket.on('close', resolve));
    expect(received).toMatch(/^HTTP\/1\.1 401 /);
  });

  it('sends HSTS also with a problem of the connection', async () => {
    const socket = await connectTls();
    let received = '';
    socket.on('data', (chunk: Buffer) => (received += chunk.toString()));
    socket.write('nonsense\r\n\r\n');
    await new Promise((resolve) => socket.on('close', resolve));
    expect(received).toMatch(/^HTTP\/1\.1 400 [^]*strict-transport-security/);
  });

  it('uses TLS 1.3, and TLS 1.2 with forward secrecy', async () => {
    expect((await connectTls()).getProtocol()).toBe('TLSv1.3');
    const old = await connectTls({ maxVersion: 'TLSv1.2' });
    expect(old.getProtocol()).toBe('TLSv1.2');
    expect(old.getCipher().name).toMatch(/^ECDHE-.*(GCM|POLY)/);
  });

  it.each<[string, tls.ConnectionOptions]>([
    ['TLS 1.1', OLD_PROTOCOL],
    ['TLS 1.0', { ...OLD_PROTOCOL, maxVersion: 'TLSv1' }],
    ['a CBC cipher', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA' }],
    ['a cipher without forward secrecy', { maxVersion: 'TLSv1.2', ciphers: 'AES128-GCM-SHA256' }],
  ])('rejects %s', async (_, options) => {
    await expect(connectTls(options)).rejects.toThrow();
  });

  it('does not answer plain HTTP on its port', async () => {
    const plain = new Promise((resolve, reject) =>
      http.get({ port, path: '/health/live' }, resolve).on('error', reject),
    );
    await expect(plain).rejects.toThrow();
  });

  it('serves a new certificate to new connections, and keeps open connections', async () => {
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca: FIRST.cert });
    try {
      const before = await getLive({ agent });
      mounted.mount(SECOND.cert, SECOND.key);
      await eventually('the second one is served', async () => (await servedName()) === 'second');
      const after = await getLive({ agent });
      expect(after.statusCode).toBe(200);
      expect(after.socket).toBe(before.socket);
      expect((await getLive({ ca: SECOND.cert, agent: false })).statusCode).toBe(200);
    } finally {
      agent.destroy();
    }
  });

  it('keeps its protocol versions and ciphers with a new certificate', async () => {
    mounted.mount(SECOND.cert, SECOND.key);
    await eventually('the second one is served', async () => (await servedName()) === 'second');
    const { name } = (await connectTls({ maxVersion: 'TLSv1.2' })).getCipher();
    expect(name).toMatch(/^ECDHE/);
    await expect(connectTls(OLD_PROTOCOL)).rejects.toThrow();
  });
});

describe('TlsReload', () => {
  const served: TlsPair[] = [];
  let errors: string[];
  let log: string[];
  let mounted: MountedPair;
  let reload: TlsReload;

  beforeEach(() => {
    served.length = 0;
    errors = [];
    log = [];
    mounted = new MountedPair(FIRST.cert, FIRST.key);
    const server = { setSecureContext: (pair: object) => void served.push(pair as TlsPair) };
    const logger = {
      log: (message: string) => void log.push(message),
      warn: (message: string) => void log.push(message),
      error: (message: string) => void errors.push(message),
    };
    reload = new TlsReload(server, mounted.files, readTlsPair(mounted.files), logger);
  });

  async function poll(times: number): Promise<void> {
    for (let count = 0; count < times; count++) await reload.poll();
  }
  const servedKeys = (): string[] => served.map(({ key }) => key.toString());

  it('does nothing while the files stay the same', async () => {
    await poll(3);
    expect([served, errors, log]).toEqual([[], [], []]);
  });

  it('serves a new pair once', async () => {
    mounted.mount(SECOND.cert, SECOND.key);
    await poll(3);
    expect(servedKeys()).toEqual([SECOND.key]);
    expect(log).toEqual([expect.stringMatching(/^TLS certificate replaced; .* valid until /)]);
  });

  it('does not report a pair that is incomplete at one poll only', async () => {
    writeFileSync(mounted.files.certFile, SECOND.cert);
    await poll(1);
    writeFileSync(mounted.files.keyFile, SECOND.key);
    await poll(1);
    expect(servedKeys()).toEqual([SECOND.key]);
    expect(errors).toEqual([]);
  });

  it('keeps the current pair and reports once that the new one does not match', async () => {
    mounted.mount(RSA.cert, SECOND.key);
    await poll(5);
    expect(served).toEqual([]);
    expect(errors).toEqual([
      'TLS certificate not replaced, the current one stays: ' +
        'TLS_KEY_FILE is not the key of the certificate in TLS_CERT_FILE',
    ]);
  });

  it('keeps the current pair and reports once that a file is missing', async () => {
    unlinkSync(mounted.files.keyFile);
    await poll(5);
    expect(served).toEqual([]);
    expect(errors).toEqual([expect.stringContaining('cannot be read (ENOENT)')]);
  });

  it('serves the next valid pair after an invalid one', async () => {
    mounted.mount(RSA.cert, SECOND.key);
    await poll(2);
    mounted.mount(RSA.cert, RSA.key);
    await poll(1);
    expect(servedKeys()).toEqual([RSA.key]);
  });

  it('reports an invalid pair again after a valid one', async () => {
    mounted.mount(RSA.cert, SECOND.key);
    await poll(2);
    mounted.mount(RSA.cert, RSA.key);
    await poll(1);
    mounted.mount(RSA.cert, SECOND.key);
    await poll(2);
    expect(errors).toHaveLength(2);
  });

  it('logs nothing of a private key', async () => {
    mounted.mount(SECOND.cert, RSA.key);
    await poll(2);
    mounted.mount(SECOND.cert, SECOND.key);
    await poll(2);
    expect([...errors, ...log].join('\n')).not.toMatch(/PRIVATE KEY|BEGIN/);
  });
});

describe('readTlsPair', () => {
  const write = (name: string, content: string): string => {
    const file = join(folder, name);
    writeFileSync(file, content);
    return file;
  };

  it('reports a missing file with its variable, path and reason', () => {
    const files = { certFile: join(folder, 'none.crt'), keyFile: write('first.key', FIRST.key) };
    expect(() => readTlsPair(files)).toThrow(ConfigError);
    expect(() => readTlsPair(files)).toThrow(
      /^TLS_CERT_FILE cannot be read: .*none\.crt \(ENOENT\)$/,
    );
  });

  it('reports a folder in place of a file', () => {
    const files = { certFile: write('first.crt', FIRST.cert), keyFile: folder };
    expect(() => readTlsPair(files)).toThrow(/^TLS_KEY_FILE cannot be read: .* \(EISDIR\)$/);
  });

  it.each([
    ['junk as certificate', 'junk', FIRST.key, /^TLS_CERT_FILE must be a PEM certificate/],
    ['an empty key', FIRST.cert, '', /^TLS_KEY_FILE must be a PEM private key/],
    ['certificate and key swapped', FIRST.key, FIRST.cert, /^TLS_CERT_FILE must be/],
    ['another key', FIRST.cert, SECOND.key, /^TLS_KEY_FILE is not the key of the certificate/],
    ['a key of another type', FIRST.cert, RSA.key, /^TLS_KEY_FILE is not the key of the certifi/],
  ])('rejects %s with one line that names the variable', (_, cert, key, line) => {
    const files = { certFile: write('wrong.crt', cert), keyFile: write('wrong.key', key) };
    expect(() => readTlsPair(files)).toThrow(ConfigError);
    expect(() => readTlsPair(files)).toThrow(line);
  });
});

describe('a service with an invalid pair', () => {
  it('does not start', async () => {
    const missing = join(folder, 'missing.crt');
    const config = loadConfig({ TLS_CERT_FILE: missing, TLS_KEY_FILE: missing });
    await expect(createApp(config)).rejects.toBeInstanceOf(ConfigError);
  });
});

describe('a service without TLS', () => {
  it('sends no header that requires HTTPS', async () => {
    const app = await startApp();
    try {
      const { headers } = await app.call('GET', '/');
      expect(headers.has('strict-transport-security')).toBe(false);
      expect(headers.get('content-security-policy')).not.toContain('upgrade-insecure-requests');
    } finally {
      await app.close();
    }
  });
});

describe('a client that never ends its handshake', () => {
  it.each([
    ['sends nothing', ''],
    ['sends the begin of a handshake', '\x16\x03\x01\x02\x00\x01\x00'],
  ])('and %s is disconnected', async (_, bytes) => {
    // As the service has it, with another timeout.
    const options = { cert: FIRST.cert, key: FIRST.key, handshakeTimeout: 50 };
    const server = https.createServer(options);
    server.on('clientError', new EarlyProblems([]).sendToSocket);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const accepted = once(server, 'connection') as Promise<[Socket]>;
    const { port } = server.address() as AddressInfo;
    const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    client.on('error', () => undefined);
    try {
      client.write(bytes, 'latin1');
      const [serverSide] = await accepted;
      await eventually('its connection is gone', () => serverSide.destroyed);
    } finally {
      client.destroy();
      server.close();
    }
  });
});
