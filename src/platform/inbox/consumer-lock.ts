/**
 * Key of the advisory lock of a consumer; `$1` is the consumer's name. It is held by the node that
 * serves the consumer, and by the program that rebuilds the consumer's tables.
 */
export const CONSUMER_LOCK = `hashtextextended('inbox:' || $1, 0)`;
