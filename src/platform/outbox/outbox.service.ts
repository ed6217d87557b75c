/**
 * Writes domain events in the transaction of the change that they describe; outbox-relay.ts
 * publishes them. Invariant: the caller has locked the aggregate's row, so the events of one
 * subject get their positions in the order of its versions.
 */
import { Injectable } from '@nestjs/common';
import { v7 as uuidv7 } from 'uuid';
import { OutboxEvent } from './outbox.entity.js';
import type { Transaction } from '../database/transaction.js';
import { currentTraceParent } from '../http/server/trace-context.js';

/** `data` never contains a secret: everybody who may bind a queue reads it. */
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
