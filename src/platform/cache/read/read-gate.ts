/**
 * Whether this node may answer from the cache; otherwise every read goes to PostgreSQL and fills
 * nothing. Invariant: while the gate is open, this node is registered for the epoch, and all rows
 * of `cache_invalidations` from before its latest pass are applied. It closes by itself when no
 * pass confirms that any more: others may have removed the registration.
 */
import { Inject, Injectable } from '@nestjs/common';
import { CACHE_TIMINGS, type CacheTimings } from '../cache-timings.js';
import type { EpochStore } from '../store/epoch-store.js';

/** What {@link ReadGate.takePass} gives: the right to open the gate if nothing closes it. */
export interface GatePass {
  readonly generation: number;
  /** By performance.now(). */
  readonly takenAt: number;
  /** By Date.now(): the other clock stops while the machine is suspended. */
  readonly wallTakenAt: number;
}

/** An open gate. */
interface Opening {
  readonly pass: GatePass;
  readonly store: EpochStore;
}

@Injectable()
export class ReadGate {
  private generation = 0;
  private opening: Opening | undefined;
  /** Called at each {@link close}, so that its listener works towards opening the gate again. */
  onClosed: () => void = () => undefined;

  constructor(@Inject(CACHE_TIMINGS) private readonly timings: CacheTimings) {}

  /** Keeps the gate closed until {@link open} is called with a pass taken after this moment. */
  close(): void {
    this.generation++;
    this.opening = undefined;
    this.onClosed();
  }

  /**
   * Take it before looking at the registration and at `cache_invalidations`.
   * @returns a pass for {@link open}; the next {@link close} voids it
   */
  takePass(): GatePass {
    return {
      generation: this.generation,
      takenAt: performance.now(),
      wallTakenAt: Date.now(),
    };
  }

  /**
   * Opens the gate, or keeps it open, until `gateLeaseMs` after the pass was taken; unless it was
   * closed since.
   */
  open(pass: GatePass, store: EpochStore): void {
    if (pass.generation === this.generation) this.opening = { pass, store };
  }

  get isOpen(): boolean {
    return this.store !== undefined;
  }

  /**
   * The cache that this node may answer from now. Ask before each command: an answer is as new as
   * what was acknowledged before the last time that this returned the store.
   */
  get store(): EpochStore | undefined {
    const { opening, timings } = this;
    if (!opening?.store.isAvailable) return undefined;
    const { takenAt, wallTakenAt } = opening.pass;
    const ageMs = performance.now() - takenAt;
    const wallAgeMs = Date.now() - wallTakenAt;
    const isConfirmed = ageMs < timings.gateLeaseMs && Math.abs(wallAgeMs) < timings.gateLeaseMs;
    return isConfirmed ? opening.store : undefined;
  }
}
