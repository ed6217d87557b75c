/**
 * The service in Nest's preview mode: its modules and routes can be inspected, but no provider is
 * created. So the documents need no database and no environment.
 */
import 'reflect-metadata';
import type { INestApplication } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { AppModule } from '../../src/app.module.js';
import { loadConfig } from '../../src/config.js';

export const createPreviewApp = (): Promise<INestApplication> =>
  NestFactory.create(AppModule.with(loadConfig({})), new FastifyAdapter(), {
    preview: true,
    logger: false,
    abortOnError: false,
  });
