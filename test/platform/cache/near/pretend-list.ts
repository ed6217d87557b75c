/**
 * The list of nodes with near caches, without a server: texts are delivered when the test says so,
 * or at once, and can be lost. Its members share a clock that the test moves.
 */
import type {
  ListedNode,
  NearList,
  NearListener,
  NearListenerEvents,
  NearListState,
  NearRenewal,
} from '../../../../src/platform/cache/near/near-list.js';
import { CacheUnavailableError } from '../../../../src/platform/cache/store/cache-store.js';

export class PretendList implements NearList {
  readonly renewals = new Map<string, string>();
  readonly listeners = new Map<string, NearListenerEvents>();
  /** Called with every answer, instead of its delivery. */
  interceptAnswer: ((node: string, deliver: () => void) => void) | undefined;
  interceptRevocation: ((node: string, deliver: () => void) => void) | undefined;
  /** Called before a renewal is answered. */
  beforeReply: () => Promise<void> = async () => undefined;
  isLost = false;
  isWhole = true;
  wholeCalls: string[] = [];
  count = 0;
  private life = 1;

  get id(): string {
    return `list-${this.life}`;
  }

  /** As after FLUSHALL. */
  lose(): void {
    this.life++;
    this.renewals.clear();
    this.count = 0;
    this.isWhole = false;
  }

  async renew(_: string, { node, renewal, wholeList }: NearRenewal): Promise<NearListState> {
    if (this.isLost) throw new CacheUnavailableError('gone');
    if (wholeList === this.id) this.isWhole = true;
    this.renewals.set(node, renewal);
    const state = this.state();
    await this.beforeReply();
    return state;
  }

  async revoke(
    _: string,
    message: string,
  ): Promise<NearListState & { nodes: readonly ListedNode[] }> {
    if (this.isLost) throw new CacheUnavailableError('gone');
    this.count++;
    const text = `${this.id}:${this.count}:${message}`;
    const nodes = [...this.renewals].map(([node, renewal]) => ({ node, renewal }));
    const found = { ...this.state(), nodes };
    for (const [node, { onRevocation }] of this.listeners) {
      const deliver = (): void => onRevocation(text);
      if (this.interceptRevocation) this.interceptRevocation(node, deliver);
      else deliver();
    }
    return found;
  }

  async answer(_: string, node: string, text: string): Promise<void> {
    const deliver = (): void => this.listeners.get(node)?.onAnswer(text);
    if (this.interceptAnswer && text !== 'probe') this.interceptAnswer(node, deliver);
    else deliver();
  }

  async markWhole(_: string, id: string): Promise<void> {
    this.wholeCalls.push(id);
    if (id === this.id) this.isWhole = true;
  }

  async remove(_: string, { node, renewal }: ListedNode): Promise<void> {
    if (this.renewals.get(node) === renewal) this.renewals.delete(node);
  }

  async listen(_: string, node: string, events: NearListenerEvents): Promise<NearListener> {
    if (this.isLost) throw new CacheUnavailableError('gone');
    this.listeners.set(node, events);
    return { close: () => void this.listeners.delete(node) };
  }

  private state(): NearListState {
    return { id: this.id, isWhole: this.isWhole, count: this.count };
  }
}
