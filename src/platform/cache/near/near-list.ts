/**
 * The list of the nodes that have near caches, where all nodes of an epoch share it
 * (docs/design/cache-protocol.md, "The near cache"). It may be lost at any moment: it then has
 * another id. A command that fails may have been run, or may be run later.
 */

/** What each command finds. */
export interface NearListState {
  /** The list's id. Lists that were lost had other ids. */
  readonly id: string;
  /** Whether it has every node that may have a lease: it was found new long enough ago. */
  readonly isWhole: boolean;
  /** How many revocations it has numbered, this one included. */
  readonly count: number;
}

export interface ListedNode {
  readonly node: string;
  /** The number of its last renewal, as text. */
  readonly renewal: string;
}

/** One node's call to renew its lease. */
export interface NearRenewal extends ListedNode {
  /** The id of a list that was found new at least one lease's time ago: it is whole then. */
  readonly wholeList: string | undefined;
}

/** Texts that this node gets from the list's server, until the connection is lost. */
export interface NearListener {
  close(): void;
}

export interface NearListenerEvents {
  /** A revocation, in the form `<list id>:<number>:<message>`. */
  readonly onRevocation: (text: string) => void;
  /** A text that another node has sent to this one. */
  readonly onAnswer: (text: string) => void;
  /** Called once. Nothing is received any more, and something may have been missed. */
  readonly onLost: () => void;
}

/** Every method rejects when the server does not answer in time. */
export interface NearList {
  /** Puts the node into the list. */
  renew(name: string, renewal: NearRenewal): Promise<NearListState>;

  /** Numbers the message and sends it to every listener. */
  revoke(
    name: string,
    message: string,
  ): Promise<NearListState & { readonly nodes: readonly ListedNode[] }>;

  /** Sends a text to one node's listener. */
  answer(name: string, node: string, text: string): Promise<void>;

  /** The list was found new at least one lease's time ago. Nothing happens to another list. */
  markWhole(name: string, id: string): Promise<void>;

  /** Takes the node out of the list, unless it has renewed since. */
  remove(name: string, node: ListedNode): Promise<void>;

  listen(name: string, node: string, events: NearListenerEvents): Promise<NearListener>;
}
