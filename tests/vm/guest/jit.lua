-- SPDX-License-Identifier: GPL-2.0-or-later
-- Work that LuaJIT compiles: numbers, tables, strings, and functions made at run time whose
-- machine code is thrown away again and again. Prints one line that depends on all of it.

local function sieve(n)
    local composite, count = {}, 0
    for i = 2, n do
        if not composite[i] then
            count = count + 1
            for j = i * i, n, i do composite[j] = true end
        end
    end
    return count
end

local function random(n)
    local x, hits = 1, 0
    for _ = 1, n do
        x = (x * 16807) % 2147483647
        if x % 3 == 0 then hits = hits + 1 end
    end
    return hits .. "/" .. x
end

local function words(n)
    local seen, kinds = {}, 0
    for i = 1, n do
        local word = string.format("%x", (i * 2654435761) % 65521)
        if not seen[word] then
            seen[word] = true
            kinds = kinds + 1
        end
    end
    return kinds
end

local function bodies(steps)
    local x, v = 1.0, 0.0
    for _ = 1, steps do
        v = v - x * 0.001
        x = x + v * 0.001
    end
    return string.format("%.9f", x)
end

-- each round compiles another function to machine code where the last one's was
local function made(rounds)
    local sum = 0
    for round = 1, rounds do
        local source = string.format(
            "local s = 0 for i = 1, 300 do s = (s * %d + i * %d) %% 1000003 end return s",
            round % 97 + 2, round * 7919)
        sum = (sum * 31 + assert(loadstring(source))()) % 1000000007
        jit.flush()
    end
    return sum
end

print(sieve(30000), random(200000), words(20000), bodies(200000), made(400))
