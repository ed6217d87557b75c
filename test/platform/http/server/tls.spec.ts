/** HTTPS from TLS_CERT_FILE and TLS_KEY_FILE: what is spoken, what is refused at the start, and how a new pair takes over. */
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
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import tls from 'node:tls';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { createApp } from '../../src/app.js';
import { ConfigError, loadConfig } from '../../src/config.js';
import { type Certificate, makeCertificate } from '../support/certificates.js';
import { startApp, type TestApp } from '../support/app.js';

describe('TLS', () => {
  let folder: string;
  let app: TestApp;
  let port: number;
  const sockets = new Set<tls.TLSSocket>();
  const [one, two, rsa]: Certificate[] = [
    makeCertificate('one'),
    makeCertificate('two'),
    makeCertificate('three', 'rsa'),
  ] as const;
  const files = (): { certFile: string; keyFile: string } => ({
    certFile: join(folder, 'live', 'tls.crt'),
    keyFile: join(folder, 'live', 'tls.key'),
  });
  const logged: string[] = [];

  /** As Kubernetes mounts a secret: a folder for each state, and a link that moves from one to the next in one step. */
  let states = 0;
  function mount(cert: string, key: string): void {
    const state = join(folder, `state-${++states}`);
    mkdirSync(state);
    writeFileSync(join(state, 'tls.crt'), cert);
    writeFileSync(join(state, 'tls.key'), key);
    symlinkSync(state, join(folder, 'next'));
    renameSync(join(folder, 'next'), join(folder, 'live'));
  }

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'holdfast-tls-'));
    mount(one!.cert, one!.key);
    const { certFile, keyFile } = files();
    app = await startApp(
      { TLS_CERT_FILE: certFile, TLS_KEY_FILE: keyFile, LOG_LEVEL: 'info' },
      undefined,
      {
        write: (line) => void logged.push(line),
      },
    );
    port = Number(new URL(app.url).port);
  });
  afterAll(async () => {
    sockets.forEach((socket) => socket.destroy());
    await app.close();
    rmSync(folder, { recursive: true, force: true });
  });

  const handshake = (options: tls.ConnectionOptions = {}): Promise<tls.TLSSocket> =>
    new Promise((resolve, reject) => {
      const socket = tls.connect(
        { port, host: '127.0.0.1', rejectUnauthorized: false, ...options },
        () => resolve(socket),
      );
      sockets.add(socket.on('error', reject));
    });
  /** The common name that a new connection is shown. */
  async function served(): Promise<string> {
    const socket = await handshake();
    const { subject } = socket.getPeerCertificate();
    socket.destroy();
    return String(subject.CN);
  }
  async function eventually(condition: () => Promise<boolean> | boolean): Promise<void> {
    for (const deadline = Date.now() + 8_000; !(await condition()); await sleep(50))
      if (Date.now() > deadline) throw new Error('it did not happen in time');
  }
  const get = (path: string, ca: string): Promise<http.IncomingMessage> =>
    new Promise((resolve, reject) => {
      https
        .get(`https://127.0.0.1:${port}${path}`, { ca, agent: false }, (reply) =>
          resolve(reply.resume()),
        )
        .on('error', reject);
    });

  it('serves the API under the certificate, with HSTS', async () => {
    expect(app.url).toMatch(/^https:/);
    const reply = await get('/health/live', one!.cert);
    expect(reply.statusCode).toBe(200);
    expect(reply.headers['strict-transport-security']).toMatch(/^max-age=31536000/);
    expect(reply.headers['content-security-policy']).toContain('upgrade-insecure-requests');
  });

  it('speaks TLS 1.2 with forward secrecy at the least', async () => {
    expect((await handshake()).getProtocol()).toBe('TLSv1.3');
    const old = await handshake({ maxVersion: 'TLSv1.2' });
    expect([old.getProtocol(), old.getCipher().name]).toEqual([
      'TLSv1.2',
      expect.stringMatching(/^ECDHE-.*(GCM|POLY)/),
    ]);
    old.destroy();
    for (const maxVersion of ['TLSv1.1', 'TLSv1'] as const)
      await expect(
        handshake({ minVersion: 'TLSv1', maxVersion, ciphers: 'DEFAULT@SECLEVEL=0' }),
      ).rejects.toThrow();
    for (const ciphers of ['ECDHE-ECDSA-AES128-SHA', 'AES128-GCM-SHA256'])
      await expect(handshake({ maxVersion: 'TLSv1.2', ciphers })).rejects.toThrow();
  });

  it('does not answer plain HTTP on that port', async () => {
    const plain = new Promise((resolve, reject) =>
      http.get({ port, path: '/health/live' }, resolve).on('error', reject),
    );
    await expect(plain).rejects.toThrow();
    expect((await get('/health/live', one!.cert)).statusCode).toBe(200);
  });

  it('takes a pair that a link was moved to, and drops no connection', async () => {
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca: one!.cert });
    const ask = (): Promise<{ status: number; reused: boolean; cn: string }> =>
      new Promise((resolve, reject) => {
        const request = https.get(`https://127.0.0.1:${port}/health/live`, { agent }, (reply) => {
          const cn = String((reply.socket as tls.TLSSocket).getPeerCertificate().subject?.CN);
          reply
            .resume()
            .on('end', () =>
              resolve({ status: reply.statusCode ?? 0, reused: request.reusedSocket, cn }),
            );
        });
        request.on('error', reject);
      });
    expect(await ask()).toMatchObject({ status: 200, reused: false });
    mount(two!.cert, two!.key);
    await eventually(async () => (await served()) === 'two');
    expect(await ask()).toEqual({ status: 200, reused: true, cn: 'one' });
    agent.destroy();
    expect((await get('/health/live', two!.cert)).statusCode).toBe(200);
    expect((await handshake({ maxVersion: 'TLSv1.2' })).getCipher().name).toMatch(/^ECDHE/);
    await expect(
      handshake({ minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }),
    ).rejects.toThrow();
  });

  it('keeps the pair in force over one that is broken, says so once, and takes the next whole one', async () => {
    const errors = (): string[] => logged.filter((line) => line.includes('is not replaced'));
    const { certFile, keyFile } = files();
    mount(rsa!.cert, two!.key);
    await eventually(() => errors().length > 0);
    expect(errors()[0]).toContain(
      'TLS_KEY_FILE is not the key of the certificate in TLS_CERT_FILE',
    );
    await sleep(2_200);
    expect([await served(), errors().length]).toEqual(['two', 1]);
    unlinkSync(keyFile);
    await eventually(() => errors().length === 2);
    expect(errors()[1]).toContain('the files cannot be read (ENOENT)');
    // In place, as certbot's hooks and editors do.
    writeFileSync(certFile, rsa!.cert);
    writeFileSync(keyFile, rsa!.key);
    await eventually(async () => (await served()) === 'three');
    expect(logged.join('')).not.toContain('PRIVATE KEY');
  });

  it('a pair that cannot be served stops the start with one line that names the variable', async () => {
    const write = (name: string, text: string): string => {
      writeFileSync(join(folder, name), text);
      return join(folder, name);
    };
    const good = { cert: write('good.crt', one!.cert), key: write('good.key', one!.key) };
    const bad: readonly (readonly [string, string, RegExp])[] = [
      [
        join(folder, 'none.crt'),
        good.key,
        /^TLS_CERT_FILE cannot be read: .*none\.crt \(ENOENT\)$/,
      ],
      [good.cert, folder, /^TLS_KEY_FILE cannot be read: .* \(EISDIR\)$/],
      [write('junk', 'junk'), good.key, /^TLS_CERT_FILE must be a PEM certificate/],
      [good.cert, write('empty', ''), /^TLS_KEY_FILE must be a PEM private key/],
      [good.key, good.cert, /^TLS_CERT_FILE must be/],
      [good.cert, write('other.key', two!.key), /^TLS_KEY_FILE is not the key of the certificate/],
      [good.cert, write('rsa.key', rsa!.key), /^TLS_KEY_FILE is not the key of the certificate/],
    ];
    for (const [TLS_CERT_FILE, TLS_KEY_FILE, line] of bad) {
      const env = {
        DATABASE_URL: app.databaseUrl,
        TLS_CERT_FILE,
        TLS_KEY_FILE,
        LOG_LEVEL: 'silent',
      };
      const start = createApp(loadConfig(env));
      await expect(start).rejects.toBeInstanceOf(ConfigError);
      await expect(start).rejects.toThrow(line);
    }
  });
});

describe('without TLS', () => {
  it('no header claims it', async () => {
    const app = await startApp();
    try {
      const { headers } = await app.call('GET', '/health/live');
      expect(headers.get('strict-transport-security')).toBeNull();
      expect(headers.get('content-security-policy')).not.toContain('upgrade-insecure-requests');
    } finally {
      await app.close();
    }
  });
});
