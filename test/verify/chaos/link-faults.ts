/** Faults of the links between nodes and servers. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { TcpProxy } from '../../support/tcp-proxy.js';
import type { LinkFault, RedisLinksFault } from './faults.js';
import type { OneServerSite } from './redis-site.js';

export async function disturbLink(link: TcpProxy, fault: LinkFault): Promise<void> {
  switch (fault.kind) {
    case 'link delayed':
      link.setDelay(0, fault.jitterMs);
      await sleep(fault.ms);
      link.setDelay(0, 0);
      return;
    case 'link cut':
      link.cut();
      return;
    case 'link refused':
      link.refuse();
      await sleep(fault.ms);
      link.heal();
      return;
    case 'link stalled':
      link.stall();
      await sleep(fault.ms);
      link.resume();
      return;
    case 'link half-open':
      link.halfOpen(fault.direction);
      await sleep(fault.ms);
      if (fault.isSilent) link.healSilently();
      else link.heal();
  }
}

/** @param links of all nodes to the server */
export async function disturbRedisLinks(
  links: readonly TcpProxy[],
  { server, otherServer }: OneServerSite,
  { kind, ms }: RedisLinksFault,
): Promise<void> {
  switch (kind) {
    case 'outage':
      for (const link of links) link.refuse();
      await sleep(ms);
      for (const link of links) link.heal();
      return;
    case 'address leads elsewhere':
      await leadTo(links, otherServer.port, ms);
      await leadTo(links, server.port, ms);
  }
}

/** One link after the other: for a while, the nodes use two servers. */
async function leadTo(links: readonly TcpProxy[], port: number, ms: number): Promise<void> {
  for (const link of links) {
    link.leadTo(port);
    link.cut();
    await sleep(ms / 2);
  }
}
