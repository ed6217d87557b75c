/**
 * How many versions an order may have. Each one is an event, which a read of the past replays. A
 * change of items or note must leave the versions that the longest life after it needs, so that
 * every order can be completed. Actions are never refused for it.
 */
import { EDITABLE_STATUS, longestPathFrom } from './order-lifecycle.js';

export const MAX_ORDER_VERSIONS = 1_000;

/** The last version that a change may make. */
export const MAX_CHANGED_VERSION = MAX_ORDER_VERSIONS - longestPathFrom(EDITABLE_STATUS);

/** @param version of the order before the change */
export const hasRoomForChange = (version: number): boolean => version < MAX_CHANGED_VERSION;
