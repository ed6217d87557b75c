/** Where the repository lies: tests run in it, but are compiled to another folder. */
import { pathToFileURL } from 'node:url';

/** npm runs every command in the folder of package.json. */
export const REPOSITORY = pathToFileURL(`${process.cwd()}/`);
