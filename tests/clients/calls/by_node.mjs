// Makes one call with a library for Node.js and prints, as a line of JSON, what it returned or threw.
// node by_node.mjs NAME URL TOKEN MODEL
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";

const [name, baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Name the capital of France." }];
const asked = { model, messages, max_tokens: 12, temperature: 0 };
const City = z.object({ city: z.enum(["Paris", "Rome"]), sure: z.boolean() });
const chain = (options = {}) =>
  new ChatOpenAI({ model, apiKey, maxTokens: 60, temperature: 0, maxRetries: 0, configuration: { baseURL }, ...options });

// What programs read of an answer; servers add others.
const seen = ({ id, object, created, model, choices, usage }) => ({
  id, object, created, model,
  choices: choices.map(({ index, finish_reason, message }) => ({ index, finish_reason, role: message.role, content: message.content })),
  usage: { prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens, total_tokens: usage.total_tokens },
});

const calls = {
  chat: async () => seen(await client.chat.completions.create(asked)),
  stream: async () => {
    let text = "", usage = null, end = null;
    for await (const chunk of await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.delta?.content ?? "";
      end ??= chunk.choices[0]?.finish_reason ?? null;
      usage = chunk.usage ?? null;
    }
    assert.equal(text, (await client.chat.completions.create(asked)).choices[0].message.content);
    return { text, end, tokens: usage.completion_tokens };
  },
  helper: async () => {
    const final = await client.chat.completions.stream(asked).finalChatCompletion();
    return { id: final.id, text: final.choices[0].message.content, end: final.choices[0].finish_reason };
  },
  parsed: async () => {
    const answer = await client.chat.completions.parse({ ...asked, max_tokens: 60, response_format: zodResponseFormat(City, "city") });
    return City.parse(answer.choices[0].message.parsed);
  },
  tools: async () => {
    const tool = { type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } };
    return (await client.chat.completions.create({ ...asked, tools: [tool] })).choices[0].message.role;
  },
  unknown_model: async () => client.chat.completions.create({ ...asked, model: "gpt-4o" }),
  completion: async () => (await client.completions.create({ model, prompt: "One, two, three,", max_tokens: 8 })).choices[0].text,
  responses: async () => {
    const answer = await client.responses.create({ model, input: "Name the capital of France.", max_output_tokens: 12 });
    return { id: answer.id, status: answer.status, text: answer.output_text, tokens: answer.usage.output_tokens };
  },
  models: async () => {
    const found = [];
    for await (const { id, object, created, owned_by } of client.models.list()) found.push({ id, object, created, owned_by });
    return found;
  },
  invoke: async () => {
    const { content, usage_metadata, response_metadata } = await chain().invoke("Name the capital of France.");
    return { content, tokens: usage_metadata.output_tokens, end: response_metadata.finish_reason };
  },
  langchain_stream: async () => {
    let text = "";
    for await (const chunk of await chain().stream("Name the capital of France.")) text += chunk.content;
    assert.notEqual(text, "");
    return text;
  },
  structured: async () => City.parse(await chain().withStructuredOutput(City, { method: "jsonSchema" }).invoke("Name the capital of France.")),
};

try {
  console.log(JSON.stringify({ answer: await calls[name]() }));
} catch (thrown) {
  if (thrown instanceof assert.AssertionError || !(thrown instanceof Error)) throw thrown;
  if (thrown.status === undefined) throw thrown;
  const { status, code, type, param, message } = thrown;
  console.log(JSON.stringify({ error: { class: thrown.constructor.name, status, code: code ?? null, type: type ?? null, param: param ?? null, message } }));
}
