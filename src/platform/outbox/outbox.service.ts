/**
 * Domain events leave in the transaction of the change that they tell of: written to the outbox by {@link OutboxService},
 * carried to the broker by outbox.relay.ts. Whoever appends has locked the aggregate's row, so that the events of one
 * subject get their positions in the order of its versions.
 */
import { Injectable } from '@nestjs/common';
import { v7 as uuidv7 } from 'uuid';
import { OutboxEvent } from './outbox.entity.js';
import type { Transaction } from '../database/unit-of-work.js';
import { currentTraceParent } from '../http/trace-context.js';

/** `data` never holds a secret: it is read by whoever may bind a queue. */
export interface DomainEvent {
  readonly type: string;
  readonly subject: string;
  readonly data: Readonly<Record<string, unknown>> & { readonly version: number };
}

@Injectable()
export class OutboxService {
  async append({ manager }: Transaction, { type, subject, data }: DomainEvent): Promise<void> {
    await manager.insert(OutboxEvent, {
      id: uuidv7(),
      type,
      subject,
      data,
      traceParent: currentTraceParent(),
    } as never);
  }
}
