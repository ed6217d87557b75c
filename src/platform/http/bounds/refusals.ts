/** Counts what the bounds refuse, for operators: an attack, or bounds that are too low. */
import { Injectable } from '@nestjs/common';
import { Counter, Registry } from 'prom-client';

@Injectable()
export class Refusals {
  /** By the bound that refused: `process` or `address`. */
  readonly connections: Counter<'bound'>;
  /** By the bound that refused. */
  readonly requests: Counter<'bound'>;
  readonly stalled: Counter;

  constructor(registry: Registry) {
    const registers = [registry];
    this.connections = new Counter({
      name: 'holdfast_connections_refused_total',
      help: 'Connections that were closed at once, by the bound that they exceeded',
      labelNames: ['bound'],
      registers,
    });
    this.requests = new Counter({
      name: 'holdfast_requests_refused_total',
      help: 'Requests that were refused to protect others, by the bound that they exceeded',
      labelNames: ['bound'],
      registers,
    });
    this.stalled = new Counter({
      name: 'holdfast_stalled_connections_total',
      help: 'Connections that were closed because their client did not read a response',
      registers,
    });
  }
}
