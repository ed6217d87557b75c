/**
 * One line of log for each thing worth knowing, by pino, behind Nest's LoggerService. Secrets have no way in: bodies and
 * Authorization headers are never logged, and control characters in what callers send are escaped by the JSON encoding.
 */
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
    ...(to ? { destination: to } : {}),
  });
  return pino(options, stream as DestinationStream);
}

/** Nest's own account of its start: one line for each module and route, which helps only who debugs the wiring. */
const WIRING = new Set(['InstanceLoader', 'NestApplication', 'NestFactory', 'RouterExplorer', 'RoutesResolver']);

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
      ...(typeof stack === 'string' ? { stack } : {}),
    };
    if (message instanceof Error) this.logger[level]({ ...fields, stack: message.stack }, message.message);
    else this.logger[level](fields, typeof message === 'string' ? message : JSON.stringify(message));
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
