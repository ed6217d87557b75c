/**
 * One line of log for each thing worth knowing, by pino, behind Nest's LoggerService. Secrets have no way in: bodies and
 * Authorization headers are never logged, and control characters in what callers send are written as escapes in both forms.
 */
import { Writable } from 'node:stream';
import type { LoggerService } from '@nestjs/common';
import { pino, stdTimeFunctions, type DestinationStream, type Logger } from 'pino';
import pretty from 'pino-pretty';
import type { Config } from '../config.js';

/** @param to where the lines go; standard output when absent */
export function createPino(
  { logLevel, logFormat }: Pick<Config, 'logLevel' | 'logFormat'>,
  to?: DestinationStream,
): Logger {
  const options = {
    level: logLevel,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  if (logFormat === 'json') return to ? pino(options, to) : pino(options);
  const stream = pretty({
    colorize: process.stdout.isTTY,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'context',
    messageFormat: '{context}: {msg}',
    sync: true,
    ...(to
      ? {
          destination: new Writable({
            decodeStrings: false,
            write: (line, _, done) => (to.write(String(line)), done()),
          }),
        }
      : {}),
  });
  return pino(options, stream as DestinationStream);
}

/** Nest's own account of its start: one line for each module and route, which helps only who debugs the wiring. */
const WIRING = new Set([
  'InstanceLoader',
  'NestApplication',
  'NestFactory',
  'RouterExplorer',
  'RoutesResolver',
]);

/** What a terminal acts on or a reader of lines takes for another line; the frames of a stack stay lines of their own. */
const CONTROL = /\n(?! {4}at )|[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/g;
const legible = (text: string): string =>
  text.replace(CONTROL, (control) =>
    JSON.stringify(control)
      .slice(1, -1)
      .replace(/[^\x20-\x7e]/, escape),
  );
const escape = (control: string): string =>
  `\\u${control.charCodeAt(0).toString(16).padStart(4, '0')}`;

type Level = 'info' | 'error' | 'warn' | 'debug' | 'trace' | 'fatal';

/** Nest calls `log(message, ...rest, context)`; an error's stack comes as the second of three. */
export class PinoLogger implements LoggerService {
  private more: () => Record<string, string> = () => ({});

  constructor(private readonly logger: Logger) {}

  /** Members that each line has from now on. */
  addFields(more: () => Record<string, string>): void {
    this.more = more;
  }

  private write(level: Level, message: unknown, rest: unknown[]): void {
    const context = rest.at(-1);
    const [stack] = rest.length > 1 ? rest : [];
    const fields = {
      ...this.more(),
      ...(typeof context === 'string' ? { context } : {}),
      ...(typeof stack === 'string' ? { stack: legible(stack) } : {}),
    };
    const text =
      typeof message === 'string'
        ? message
        : message instanceof Error
          ? message.message
          : JSON.stringify(message);
    const thrown =
      message instanceof Error && message.stack ? { stack: legible(message.stack) } : {};
    this.logger[level]({ ...fields, ...thrown }, legible(text ?? 'undefined'));
  }

  log(message: unknown, ...rest: unknown[]): void {
    this.write(WIRING.has(String(rest.at(-1))) ? 'debug' : 'info', message, rest);
  }
  error(message: unknown, ...rest: unknown[]): void {
    // A start that fails is told by main.ts, in a line; Nest's account of it is only its stack.
    this.write(rest.at(-1) === 'ExceptionHandler' ? 'debug' : 'error', message, rest);
  }
  warn(message: unknown, ...rest: unknown[]): void {
    this.write('warn', message, rest);
  }
  debug(message: unknown, ...rest: unknown[]): void {
    this.write('debug', message, rest);
  }
  verbose(message: unknown, ...rest: unknown[]): void {
    this.write('trace', message, rest);
  }
  fatal(message: unknown, ...rest: unknown[]): void {
    this.write('fatal', message, rest);
  }
}
