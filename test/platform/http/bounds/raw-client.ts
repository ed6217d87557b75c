/** Connections that send what they like, and read only when they like. */
import { connect, type Socket } from 'node:net';

export interface RawClient {
  readonly socket: Socket;
  /** What was received so far. */
  text(): string;
  /** Status codes of the responses so far. */
  statuses(): number[];
  isClosed(): boolean;
}

/** @param reads false: nothing is read until `socket.resume()` */
export function openRaw(url: string, bytes: string, reads = true): RawClient {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  let [text, isClosed] = ['', false];
  socket.setEncoding('latin1');
  socket.on('error', () => undefined);
  socket.on('close', () => (isClosed = true));
  socket.on('data', (chunk: string) => (text += chunk));
  if (!reads) socket.pause();
  socket.write(bytes);
  return {
    socket,
    text: () => text,
    statuses: () => [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map(([, code]) => Number(code)),
    isClosed: () => isClosed,
  };
}

/** The bytes of a GET. */
export const getOf = (path: string, token?: string): string =>
  `GET ${path} HTTP/1.1\r\nHost: x\r\n` +
  (token === undefined ? '\r\n' : `Authorization: Bearer ${token}\r\n\r\n`);
