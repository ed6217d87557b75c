/**
 * The log of the service: pino behind Nest's LoggerService. Invariants: an entry is one line, plus
 * the frames of a stack; control characters are written as escapes, so that text of a caller cannot
 * forge a line. Bodies and Authorization headers are never logged.
 */
import { Writable } from 'node:stream';
import type { LoggerService } from '@nestjs/common';
import { pino, stdTimeFunctions, type DestinationStream, type Logger } from 'pino';
import pretty from 'pino-pretty';
import type { Config } from '../../config.js';

/** @param destination receives the lines; standard output when absent */
export function createPino(
  { logLevel, logFormat }: Pick<Config, 'logLevel' | 'logFormat'>,
  destination?: DestinationStream,
): Logger {
  const options = {
    level: logLevel,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  if (logFormat === 'pretty') return pino(options, prettyStream(destination));
  return destination ? pino(options, destination) : pino(options);
}

function prettyStream(destination: DestinationStream | undefined): DestinationStream {
  return pretty({
    colorize: process.stdout.isTTY,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'context',
    messageFormat: '{context}: {msg}',
    sync: true,
    ...(destination ? { destination: writableTo(destination) } : {}),
  }) as DestinationStream;
}

/** pino-pretty takes a stream of Node only. */
function writableTo(destination: DestinationStream): Writable {
  return new Writable({
    decodeStrings: false,
    write: (line, _, done) => {
      destination.write(String(line));
      done();
    },
  });
}

/** Contexts of Nest that log a line for each module and route. They help to debug the wiring. */
const WIRING_CONTEXTS = new Set([
  'InstanceLoader',
  'NestApplication',
  'NestFactory',
  'RouterExplorer',
  'RoutesResolver',
]);

/**
 * Control characters that a terminal acts on, and line ends. A line end before a frame of a stack
 * is not one of them.
 */
const CONTROL = /\n(?! {4}at )|[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/g;

/** The same text on one line, e.g. `\n` as a backslash and an n. */
const escapeControls = (text: string): string =>
  text.replace(CONTROL, (control) => {
    const json = JSON.stringify(control).slice(1, -1);
    // JSON leaves some control characters as they are.
    return json.replace(/[^\x20-\x7e]/, toUnicodeEscape);
  });

const toUnicodeEscape = (character: string): string =>
  `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;

type Level = 'info' | 'error' | 'warn' | 'debug' | 'trace' | 'fatal';
type Fields = Readonly<Record<string, string>>;

/** Nest calls `log(message, ...rest, context)`; with three arguments the second is a stack. */
export class PinoLogger implements LoggerService {
  private extraFields: () => Fields = () => ({});

  constructor(private readonly logger: Logger) {}

  /** @param extraFields called for each line; its result becomes members of the line */
  addFields(extraFields: () => Fields): void {
    this.extraFields = extraFields;
  }

  log(message: unknown, ...rest: unknown[]): void {
    const isWiring = WIRING_CONTEXTS.has(String(rest.at(-1)));
    this.write(isWiring ? 'debug' : 'info', message, rest);
  }

  error(message: unknown, ...rest: unknown[]): void {
    // main.ts reports a failed start in one line; Nest's ExceptionHandler adds only its stack.
    const isFailedStart = rest.at(-1) === 'ExceptionHandler';
    this.write(isFailedStart ? 'debug' : 'error', message, rest);
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

  private write(level: Level, message: unknown, rest: readonly unknown[]): void {
    const context = rest.at(-1);
    const stack = stackOf(message, rest);
    const fields = {
      ...this.extraFields(),
      ...(typeof context === 'string' ? { context } : {}),
      ...(stack === undefined ? {} : { stack: escapeControls(stack) }),
    };
    this.logger[level](fields, escapeControls(textOf(message)));
  }
}

function stackOf(message: unknown, rest: readonly unknown[]): string | undefined {
  if (message instanceof Error && message.stack) return message.stack;
  const [stack] = rest.length > 1 ? rest : [];
  return typeof stack === 'string' ? stack : undefined;
}

function textOf(message: unknown): string {
  if (typeof message === 'string') return message;
  if (message instanceof Error) return message.message;
  return JSON.stringify(message) ?? 'undefined';
}
