/** Who may import whom: the table of CONTRIBUTING, enforced. */

import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';

const root = path.join(import.meta.dirname, '..');

/** For each folder of `src`: folders whose values it may import, whose types only, and packages. */
const RULES: Record<string, { values: string[]; types: string[]; packages: string[] }> = {
  contract: { values: [], types: [], packages: [] },
  errors: { values: [], types: [], packages: [] },
  lib: { values: ['errors'], types: ['contract'], packages: [] },
  config: { values: ['errors', 'lib'], types: ['contract'], packages: ['valibot'] },
  upstream: { values: ['errors', 'lib'], types: ['config'], packages: [] },
  gitlab: { values: ['errors', 'lib'], types: ['upstream'], packages: ['ky', 'valibot'] },
  leases: {
    values: ['errors', 'lib'],
    types: ['contract', 'config', 'gitlab'],
    packages: ['valibot'],
  },
  warm: {
    values: ['errors', 'lib', 'leases'],
    types: ['contract', 'config', 'gitlab'],
    packages: ['valibot'],
  },
  claimer: {
    values: ['errors', 'lib', 'config', 'leases'],
    types: ['contract', 'gitlab'],
    packages: [],
  },
  proxy: {
    values: ['errors', 'lib', 'leases', 'gitlab'],
    types: ['contract', 'config', 'upstream', 'warm'],
    packages: ['hono', '@hono/node-server'],
  },
  provider: {
    values: ['errors', 'lib', 'config', 'upstream', 'gitlab', 'leases', 'warm', 'claimer', 'proxy'],
    types: ['contract'],
    packages: ['tslog'],
  },
  index: { values: ['errors', 'provider'], types: ['contract', 'config', 'lib'], packages: [] },
};

/** What the proxy may take from `gitlab` besides types: names, no calls. */
const PROXY_FROM_GITLAB = new Set(['HEADERS', 'JOB_STATUS', 'isJobOver', 'parseRangeEnd']);

interface Import {
  readonly file: string;
  readonly from: string;
  readonly typeOnly: boolean;
  readonly names: readonly string[];
}

function importsOf(file: string): Import[] {
  const text = readFileSync(path.join(root, file), 'utf8');
  const statements = text.matchAll(
    /^(?:import|export)\s+(type\s+)?(?:([^;'"]*?)\s+from\s+)?['"]([^'"]+)['"]/gm,
  );
  return [...statements].map(([, typeWord, clause = '', from = '']) => {
    const names = clause
      .replace(/[{}]/g, '')
      .split(',')
      .map((name) => name.trim())
      .filter(Boolean);
    const values = names.filter((name) => !name.startsWith('type '));
    return { file, from, typeOnly: typeWord !== undefined || values.length === 0, names: values };
  });
}

function folderOf(file: string): string {
  const [first = '', second] = path.relative('src', file).split(path.sep);
  return second === undefined ? first.replace(/\.ts$/, '') : first;
}

const sources = globSync('src/**/*.ts', { cwd: root }).filter(
  (file) => !/\.test(-d)?\.ts$/.test(file),
);
const imports = sources.flatMap(importsOf);

describe('imports in src', () => {
  it('follow the table', () => {
    const broken: string[] = [];
    for (const { file, from, typeOnly, names } of imports) {
      const folder = folderOf(file);
      const rule = RULES[folder];
      assert.ok(rule, `${file}: its folder stands in no rule`);
      if (from.startsWith('node:')) continue;
      if (!from.startsWith('.')) {
        const name = from
          .split('/')
          .slice(0, from.startsWith('@') ? 2 : 1)
          .join('/');
        if (!rule.packages.includes(name)) broken.push(`${file} imports the package ${from}`);
        continue;
      }
      const target = path.normalize(path.join(path.dirname(file), from));
      const targetFolder = folderOf(target);
      if (targetFolder === folder) continue;
      const allowed = typeOnly
        ? [...rule.values, ...rule.types].includes(targetFolder)
        : rule.values.includes(targetFolder);
      if (!allowed)
        broken.push(`${file} imports ${typeOnly ? 'types' : 'values'} of ${targetFolder}`);
      if (folder === 'proxy' && targetFolder === 'gitlab' && !typeOnly) {
        for (const name of names) {
          if (!PROXY_FROM_GITLAB.has(name)) broken.push(`${file} imports ${name} of gitlab`);
        }
      }
    }
    assert.deepEqual(broken, []);
  });

  it('enter a folder by its door', () => {
    const broken = imports.filter(({ file, from }) => {
      if (!from.startsWith('.')) return false;
      const target = path.normalize(path.join(path.dirname(file), from));
      const inside = folderOf(target) === folderOf(file);
      const loose = folderOf(target) === 'lib' || path.dirname(target) === 'src';
      return !inside && !loose && path.basename(target) !== 'index.ts';
    });
    assert.deepEqual(broken, []);
  });

  it('never touch the process: a plugin is a guest there', () => {
    const broken = sources.filter((file) => {
      const text = readFileSync(path.join(root, file), 'utf8');
      return /(?<![.\w])process\.(env|exit|on|once)\b|(?<![.\w])console\.\w+\(/.test(text);
    });
    assert.deepEqual(broken, []);
  });
});

describe('imports in fixtures', () => {
  it('reach the plugin by its package name only', () => {
    const files = globSync('fixtures/**/*.ts', {
      cwd: root,
      exclude: ['**/node_modules/**', '**/dist/**'],
    });
    const broken = files.flatMap(importsOf).filter(({ file, from }) => {
      if (!from.startsWith('.')) return false;
      return path.normalize(path.join(path.dirname(file), from)).startsWith(`src${path.sep}`);
    });
    assert.deepEqual(
      broken.map(({ file, from }) => `${file}: ${from}`),
      [],
    );
  });
});
